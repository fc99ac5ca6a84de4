// SPDX-License-Identifier: Apache-2.0
// Configuration files in FasterTransformer's ini dialect.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

/// The dialect:
///  - `[section]`, then `name=value` or `name: value`; sections and names match in any case; a section may come again and goes on.
///  - A line that starts with `;` or `#` is a comment, and so is what follows a `;` with white space before it.
///    A trailing `# ...` stays in the value; a number ends before it.
///  - An indented line continues the value above it, joined by a newline.
///  - Integers are read in base 0: 0x10 is 16, and 010 is 8.
/// FasterTransformer skipped a line that is none of these, joined the values of a name given twice, and cut lines at 200 characters.
/// Here the first two are errors, since each of them hides a mistake, and a line may have any length.
class Ini {
 public:
  static Ini read(const std::string& file);
  static Ini parse(std::string_view text, std::string file);  // `file` is the name in messages

  const std::string& file() const { return file_; }
  bool has(std::string_view section, std::string_view key) const;
  std::vector<std::string> sections() const;                      // lower case, sorted
  std::vector<std::string> keys(std::string_view section) const;  // lower case, sorted; empty if there is no such section

  /// A key that is missing, or holds something else, is an Error(invalid) naming file, section, key, and what was expected and found.
  std::string text(std::string_view section, std::string_view key) const;
  int32_t integer(std::string_view section, std::string_view key) const;
  double number(std::string_view section, std::string_view key) const;  // finite

  /// The same, but a key that is missing counts as `fallback`.
  std::string text_or(std::string_view section, std::string_view key, std::string_view fallback) const;
  int32_t integer_or(std::string_view section, std::string_view key, int32_t fallback) const;
  double number_or(std::string_view section, std::string_view key, double fallback) const;

  /// Throws the Error that a getter would: "run.ini:7: [request] top_k: expected <expected>, found '-1'".
  [[noreturn]] void reject(std::string_view section, std::string_view key, std::string_view expected) const;

 private:
  struct Entry {
    std::string value;
    int line;  // 1-based
  };
  using Section = std::map<std::string, Entry, std::less<>>;

  const Entry* find(std::string_view section, std::string_view key) const;
  const Entry& get(std::string_view section, std::string_view key) const;

  std::string file_;
  std::map<std::string, Section, std::less<>> sections_;
};

}  // namespace neox
