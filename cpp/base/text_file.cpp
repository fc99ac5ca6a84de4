// SPDX-License-Identifier: Apache-2.0
#include "base/text_file.h"

#include <filesystem>
#include <fstream>

#include "base/check.h"

namespace neox {

std::string read_text_file(const std::string& path, size_t limit) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) fail(ErrorKind::invalid, path, ": expected a file, found a folder");
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(ErrorKind::not_found, path, ": no such file, or it cannot be read");
  std::string text;
  char block[4096];
  // In blocks up to the limit, never by the size the system names: the path may be a pipe or an endless device.
  while (in.read(block, sizeof block), in.gcount() > 0) {
    text.append(block, static_cast<size_t>(in.gcount()));
    require(text.size() <= limit, path, ": expected at most ", limit, " bytes of text");
  }
  if (in.bad()) fail(ErrorKind::runtime, path, ": reading failed");
  return text;
}

std::string printable(std::string_view text, size_t longest) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return out + (text.size() > longest ? "..." : "");
}

std::string quoted(std::string_view text) { return "'" + printable(text) + "'"; }

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace neox
