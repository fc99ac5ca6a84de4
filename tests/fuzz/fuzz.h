// SPDX-License-Identifier: Apache-2.0
// A fuzz target takes any bytes. It may throw nothing but what `expect` throws: a property that does not hold. One file is one target;
// libFuzzer drives it (libfuzzer.cpp), and so does a test over the seed corpus (test_fuzz_corpus.cpp).
#pragma once
#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>

#include "neox/error.h"

namespace neox::fuzz {

using Target = void (*)(std::string_view bytes);
inline std::map<std::string, Target>& targets() {
  static std::map<std::string, Target> all;
  return all;
}

inline void expect(bool holds, const char* property) {
  if (!holds) throw std::logic_error(std::string("does not hold: ") + property);
}

/// False if `body` refuses its input with an Error that says something.
template <class Body> bool accepted(Body body) {
  try {
    body();
    return true;
  } catch (const Error& e) {
    expect(*e.what() != '\0', "an error has a message");
    return false;
  }
}

/// Takes an input apart from the front; past its end there are zeros and empty strings.
struct Reader {
  std::string_view rest;

  std::string take(size_t bytes) {
    const std::string out(rest.substr(0, bytes));
    rest.remove_prefix(out.size());
    return out;
  }
  size_t number() { return rest.empty() ? 0 : static_cast<unsigned char>(take(1)[0]); }
  std::string until(char end) {
    const std::string out = take(std::min(rest.find(end), rest.size()));
    take(1);
    return out;
  }
};

}  // namespace neox::fuzz

#define NEOX_FUZZ_TARGET(name)                                                                  \
  static void fuzz_##name(std::string_view bytes);                                              \
  static const bool name##_is_known = neox::fuzz::targets().emplace(#name, fuzz_##name).second; \
  static void fuzz_##name(std::string_view bytes)
