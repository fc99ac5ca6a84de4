// SPDX-License-Identifier: Apache-2.0
#include "base/token_csv.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

constexpr size_t kLongestFile = size_t{256} << 20;

/// The numbers of one line, none below `least`; `what` they are, for messages.
std::vector<int32_t> parse_line(std::string_view line, const std::string& file, size_t number, int32_t least, const char* what) {
  std::vector<int32_t> values;
  for (bool more = true; more;) {
    const size_t comma = line.find(',');
    const std::string_view field = trimmed(line.substr(0, comma));
    int32_t value = least - 1;
    const auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), value);
    require(error == std::errc() && stop == field.data() + field.size() && value >= least, file, ":", number, ": field ", values.size() + 1,
            ": expected ", what, ", found ", quoted(field));
    values.push_back(value);
    more = comma != std::string_view::npos;
    if (more) line.remove_prefix(comma + 1);
  }
  return values;
}

/// Without white space at the end, and so without empty lines there.
std::vector<std::string_view> split_lines(std::string_view text) {
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    lines.push_back(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(lines.back().size() + 1, text.size()));
  }
  return lines;
}

}  // namespace

std::vector<std::vector<int32_t>> parse_token_csv(std::string_view text, const std::string& file) {
  std::vector<std::vector<int32_t>> rows;
  for (const std::string_view line : split_lines(text)) rows.push_back(parse_line(line, file, rows.size() + 1, 0, "a token id"));
  require(!rows.empty(), file, ": expected one request a line, found none");
  return rows;
}

std::vector<std::vector<int32_t>> read_token_csv(const std::string& file) {
  return parse_token_csv(read_text_file(file, kLongestFile), file);
}

std::vector<std::vector<int32_t>> parse_phrase_csv(std::string_view text, const std::string& file) {
  const std::vector<std::string_view> lines = split_lines(text);
  require(lines.size() == 2, file, ": expected two lines, ids and where each phrase of them ends, found ", lines.size());
  const std::vector<int32_t> ids = parse_line(lines[0], file, 1, 0, "a token id");
  const std::vector<int32_t> ends = parse_line(lines[1], file, 2, -1, "the end of a phrase, or -1");
  require(ends.size() == ids.size(), file, ":2: expected ", ids.size(), " fields, as on line 1, found ", ends.size());

  std::vector<std::vector<int32_t>> phrases;
  int32_t begin = 0;
  for (size_t i = 0; i < ends.size(); i++) {
    if (ends[i] == -1) continue;
    require(i == phrases.size(), file, ":2: field ", i + 1, ": expected only -1 behind a -1, found ", ends[i]);
    require(ends[i] > begin && size_t(ends[i]) <= ids.size(), file, ":2: field ", i + 1, ": expected an end from ", begin + 1, " to ",
            ids.size(), ", found ", ends[i]);
    phrases.emplace_back(ids.begin() + begin, ids.begin() + ends[i]);
    begin = ends[i];
  }
  return phrases;
}

std::vector<std::vector<int32_t>> read_phrase_csv(const std::string& file) {
  return parse_phrase_csv(read_text_file(file, kLongestFile), file);
}

}  // namespace neox
