// SPDX-License-Identifier: Apache-2.0
#include "base/ini.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

constexpr size_t kLongestFile = size_t{1} << 20;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

/// `line` up to a `;` that has white space before it.
std::string_view before_comment(std::string_view line) {
  for (size_t i = 1; i < line.size(); ++i) {
    if (line[i] == ';' && is_space(line[i - 1])) return line.substr(0, i);
  }
  return line;
}

/// Whether nothing but a comment is left. strtol would stop at anything; what is not a comment is more likely a mistake.
bool only_comment(const char* from, const char* to) {
  while (from < to && is_space(*from)) ++from;
  return from == to || *from == '#' || *from == ';';
}

std::optional<int32_t> parse_integer(std::string_view text) {
  const char* at = text.data();
  const char* const end = at + text.size();
  const bool negative = at < end && *at == '-';
  if (at < end && (*at == '-' || *at == '+')) ++at;
  int base = 10;
  if (end - at > 2 && at[0] == '0' && (at[1] == 'x' || at[1] == 'X')) {
    base = 16;
    at += 2;
  } else if (end - at > 1 && at[0] == '0') {
    base = 8;
  }
  uint64_t magnitude = 0;
  const auto [stop, error] = std::from_chars(at, end, magnitude, base);
  if (error != std::errc() || !only_comment(stop, end)) return std::nullopt;
  if (magnitude > uint64_t{std::numeric_limits<int32_t>::max()} + (negative ? 1 : 0)) return std::nullopt;
  const auto value = static_cast<int64_t>(magnitude);
  return static_cast<int32_t>(negative ? -value : value);
}

std::optional<double> parse_number(std::string_view text) {
  const char* at = text.data();
  const char* const end = at + text.size();
  if (end - at > 1 && at[0] == '+' && at[1] != '-') ++at;  // from_chars, unlike strtof, knows no '+'; but no locale either
  double value = 0;
  const auto [stop, error] = std::from_chars(at, end, value);
  if (error != std::errc() || !only_comment(stop, end) || !std::isfinite(value)) return std::nullopt;
  return value;
}

/// The name in "[name]", a comment allowed behind it.
std::optional<std::string> parse_section(std::string_view line) {
  const size_t close = line.find(']');
  if (close == std::string_view::npos) return std::nullopt;
  if (!only_comment(line.data() + close + 1, line.data() + line.size())) return std::nullopt;
  return lower(trimmed(line.substr(1, close - 1)));
}

}  // namespace

Ini Ini::read(const std::string& file) { return parse(read_text_file(file, kLongestFile), file); }

Ini Ini::parse(std::string_view text, std::string file) {
  Ini ini;
  ini.file_ = std::move(file);
  std::string section;
  Entry* last = nullptr;                                        // what an indented line continues
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte-order mark
  for (int number = 1; !text.empty(); ++number) {
    const std::string_view raw = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(raw.size() + 1, text.size()));
    const std::string_view line = trimmed(raw);
    if (line.empty() || line[0] == ';' || line[0] == '#') continue;

    if (last != nullptr && is_space(raw[0])) {
      last->value += last->value.empty() ? "" : "\n";
      last->value += trimmed(before_comment(line));
      continue;
    }
    if (line[0] == '[') {
      const auto name = parse_section(line);
      require(name.has_value(), ini.file_, ":", number, ": expected [section], found ", quoted(line));
      section = *name;
      ini.sections_[section];
      last = nullptr;
      continue;
    }
    const std::string_view pair = before_comment(line);
    const size_t sign = pair.find_first_of("=:");
    const std::string key = lower(trimmed(pair.substr(0, sign)));
    require(sign != std::string_view::npos && !key.empty(), ini.file_, ":", number, ": expected name=value, found ", quoted(line));
    const auto [at, fresh] = ini.sections_[section].try_emplace(key, Entry{std::string(trimmed(pair.substr(sign + 1))), number});
    require(fresh, ini.file_, ":", number, ": [", printable(section), "] ", printable(key), " is given twice, first on line ",
            at->second.line);
    last = &at->second;
  }
  return ini;
}

const Ini::Entry* Ini::find(std::string_view section, std::string_view key) const {
  const auto in = sections_.find(lower(section));
  if (in == sections_.end()) return nullptr;
  const auto at = in->second.find(lower(key));
  return at == in->second.end() ? nullptr : &at->second;
}

const Ini::Entry& Ini::get(std::string_view section, std::string_view key) const {
  if (const Entry* entry = find(section, key)) return *entry;
  const bool has_section = sections_.contains(lower(section));
  fail(ErrorKind::invalid, file_, ": [", printable(section), "] ", key, " is missing", has_section ? "" : ", and so is the section");
}

bool Ini::has(std::string_view section, std::string_view key) const { return find(section, key) != nullptr; }

std::vector<std::string> Ini::sections() const {
  std::vector<std::string> names;
  for (const auto& [name, keys] : sections_) names.push_back(name);
  return names;
}

std::vector<std::string> Ini::keys(std::string_view section) const {
  std::vector<std::string> names;
  const auto in = sections_.find(lower(section));
  if (in == sections_.end()) return names;
  for (const auto& [name, entry] : in->second) names.push_back(name);
  return names;
}

std::string Ini::text(std::string_view section, std::string_view key) const { return get(section, key).value; }

int32_t Ini::integer(std::string_view section, std::string_view key) const {
  if (const auto value = parse_integer(get(section, key).value)) return *value;
  reject(section, key, "an integer of 32 bits (0x for base 16, a leading 0 for base 8)");
}

double Ini::number(std::string_view section, std::string_view key) const {
  if (const auto value = parse_number(get(section, key).value)) return *value;
  reject(section, key, "a number");
}

std::string Ini::text_or(std::string_view section, std::string_view key, std::string_view fallback) const {
  return has(section, key) ? text(section, key) : std::string(fallback);
}
int32_t Ini::integer_or(std::string_view section, std::string_view key, int32_t fallback) const {
  return has(section, key) ? integer(section, key) : fallback;
}
double Ini::number_or(std::string_view section, std::string_view key, double fallback) const {
  return has(section, key) ? number(section, key) : fallback;
}

void Ini::reject(std::string_view section, std::string_view key, std::string_view expected) const {
  const Entry& entry = get(section, key);
  fail(ErrorKind::invalid, file_, ":", entry.line, ": [", printable(section), "] ", key, ": expected ", expected, ", found ",
       quoted(entry.value));
}

}  // namespace neox
