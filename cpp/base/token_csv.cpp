// SPDX-License-Identifier: Apache-2.0
#include "base/token_csv.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

constexpr size_t kLongestFile = size_t{256} << 20;

std::vector<int32_t> parse_line(std::string_view line, const std::string& file, size_t number) {
  std::vector<int32_t> ids;
  for (bool more = true; more;) {
    const size_t comma = line.find(',');
    const std::string_view field = trimmed(line.substr(0, comma));
    int32_t id = -1;
    const auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), id);
    require(error == std::errc() && stop == field.data() + field.size() && id >= 0, file, ":", number, ": field ", ids.size() + 1,
            ": expected a token id, found ", quoted(field));
    ids.push_back(id);
    more = comma != std::string_view::npos;
    if (more) line.remove_prefix(comma + 1);
  }
  return ids;
}

}  // namespace

std::vector<std::vector<int32_t>> parse_token_csv(std::string_view text, const std::string& file) {
  std::vector<std::vector<int32_t>> rows;
  size_t number = 0;
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    rows.push_back(parse_line(line, file, ++number));
  }
  require(!rows.empty(), file, ": expected one request a line, found none");
  return rows;
}

std::vector<std::vector<int32_t>> read_token_csv(const std::string& file) {
  return parse_token_csv(read_text_file(file, kLongestFile), file);
}

}  // namespace neox
