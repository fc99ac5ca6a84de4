// SPDX-License-Identifier: Apache-2.0
// Bytes: a file in FasterTransformer's ini dialect.
#include "base/ini.h"

#include <cstdlib>
#include <set>

#include "fuzz.h"

using namespace neox;
using namespace neox::fuzz;

/// Every name that may be a section: what stands between brackets anywhere, and the nameless one.
static std::set<std::string> possible_sections(std::string_view bytes) {
  std::set<std::string> names{""};
  for (size_t open = bytes.find('['); open != std::string_view::npos; open = bytes.find('[', open + 1))
    if (const size_t close = bytes.find(']', open); close != std::string_view::npos)
      names.emplace(bytes.substr(open + 1, close - open - 1));
  return names;
}

NEOX_FUZZ_TARGET(ini) {
  accepted([&] {
    const Ini ini = Ini::parse(bytes, "fuzz.ini");
    for (const std::string& section : possible_sections(bytes))
      for (const std::string& key : ini.keys(section)) {
        expect(ini.has(section, key), "a key that is listed is there");
        const std::string text = ini.text(section, key);
        int32_t integer;
        if (accepted([&] { integer = ini.integer(section, key); }))
          expect(std::strtoll(text.c_str(), nullptr, 0) == integer, "an integer is what strtoll reads in base 0");
        double number;
        if (accepted([&] { number = ini.number(section, key); }))
          expect(std::strtod(text.c_str(), nullptr) == number, "a number is what strtod reads");
        expect(!accepted([&] { ini.reject(section, key, "something else"); }), "reject refuses");
      }
  });
}
