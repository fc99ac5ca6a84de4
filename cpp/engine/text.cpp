// SPDX-License-Identifier: Apache-2.0
#include "engine/text.h"

#include <algorithm>

namespace neox {
namespace {

struct Form {  // of a character that begins with a given byte: its length, and the range of its second byte
  size_t length;
  unsigned char low, high;
};

Form form_of(unsigned char lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead >= 0xC2 && lead <= 0xDF) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};  // shorter forms exist below
  if (lead == 0xED) return {3, 0x80, 0x9F};  // surrogates above
  if (lead >= 0xE1 && lead <= 0xEF) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};  // beyond U+10FFFF above
  return {0, 0, 0};
}

}  // namespace

std::string take_characters(std::string& bytes, bool end) {
  std::string out;
  size_t i = 0;
  while (i < bytes.size()) {
    const Form form = form_of(static_cast<unsigned char>(bytes[i]));
    size_t n = 1;
    for (; n < form.length && i + n < bytes.size(); n++) {
      const auto byte = static_cast<unsigned char>(bytes[i + n]);
      if (byte < (n == 1 ? form.low : 0x80) || byte > (n == 1 ? form.high : 0xBF)) break;
    }
    if (form.length > 0 && n == form.length) {
      out.append(bytes, i, n);
    } else if (form.length > 0 && i + n == bytes.size() && !end) {
      break;  // so far it fits: the rest may follow
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += n;
  }
  bytes.erase(0, i);
  return out;
}

bool find_stop(const std::string& text, const std::vector<std::string>& stop, StopMatch& match, size_t after) {
  bool found = false;
  for (size_t i = 0; i < stop.size(); i++) {
    const size_t begin = text.find(stop[i], after + 1 - std::min(stop[i].size(), after + 1));
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop[i].size();
    if (!found || end < match.end || (end == match.end && begin < match.begin)) match = {.begin = begin, .end = end, .which = i};
    found = true;
  }
  return found;
}

size_t possible_stop(const std::string& text, const std::vector<std::string>& stop) {
  size_t longest = 0;
  for (const std::string& s : stop)
    for (size_t n = std::min(s.size() - 1, text.size()); n > longest; n--)
      if (text.compare(text.size() - n, n, s, 0, n) == 0) longest = n;
  return longest;
}

}  // namespace neox
