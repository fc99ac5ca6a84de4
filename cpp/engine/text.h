// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <string>
#include <vector>

namespace neox {

/// Takes from the front of `bytes` all that is whole characters of UTF-8 and returns it; what can only be the beginning of one stays,
/// unless this is the end. Bytes that cannot be UTF-8 become U+FFFD, one for each maximal part of a character (Unicode 15, section 3.9, as
/// Python's errors="replace" does).
std::string take_characters(std::string& bytes, bool end);

struct StopMatch {
  size_t begin, end;  // of the match in the text
  size_t which;       // of the strings
};
/// The first string of `stop` to be complete in `text` past `after` bytes; of two that end together, the one that began first. False if
/// there is none.
bool find_stop(const std::string& text, const std::vector<std::string>& stop, StopMatch& match, size_t after = 0);
inline size_t longest_of(const std::vector<std::string>& strings) {
  size_t longest = 0;
  for (const std::string& s : strings) longest = std::max(longest, s.size());
  return longest;
}
/// How many bytes at the end of `text` may be the beginning of one of the strings.
size_t possible_stop(const std::string& text, const std::vector<std::string>& stop);

}  // namespace neox
