// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <set>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

constexpr int kDeepest = 100;  // dump and others recurse

/// nlohmann's "[json.exception.parse_error.101] parse error at line 1, column 2: ...", without the part in brackets.
std::string reason(const Json::exception& e) {
  const std::string_view text = e.what();
  const size_t end = text.find("] ");
  return printable(end == std::string_view::npos ? text : text.substr(end + 2), 200);
}

}  // namespace

Json parse_json_object(std::string_view text, const std::string& what) {
  std::set<std::string> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    require(depth <= kDeepest, what, " is JSON nested more than ", kDeepest, " deep");
    if (event == Json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      require(keys.insert(key).second, what, " names ", neox::quoted(key), " twice");  // not std::quoted
    }
    return true;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), check);
    if (!json.is_object()) fail(ErrorKind::invalid, what, " is not a JSON object, but ", brief(json));
    return json;
  } catch (const Json::exception& e) { fail(ErrorKind::invalid, what, " is not JSON: ", reason(e)); }
}

std::string brief(const Json& value) { return printable(value.dump(), 80); }

}  // namespace neox
