// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace neox {

/// Takes from the front of `bytes` all that is whole characters of UTF-8 and returns it; what can only be the beginning of one stays,
/// unless this is the end. Bytes that cannot be UTF-8 become U+FFFD, one for each maximal part of a character (Unicode 15, section 3.9, as
/// Python's errors="replace" does).
std::string take_characters(std::string& bytes, bool end);

}  // namespace neox
