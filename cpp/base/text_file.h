// SPDX-License-Identifier: Apache-2.0
// Small text files that people write: read whole, and quoted safely in messages.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace neox {

/// The whole file. Throws Error(not_found) if it cannot be opened, Error(invalid) if it is longer than `limit` bytes.
std::string read_text_file(const std::string& path, size_t limit);

/// `text` for a message: one line of ASCII, control and other bytes as \xNN, cut after so many characters.
std::string printable(std::string_view text, size_t longest = 80);
std::string quoted(std::string_view text);  // the same in single quotes

/// `text` without white space (of the C locale, whatever the process has set) at either end.
std::string_view trimmed(std::string_view text);
bool is_space(char c);

}  // namespace neox
