// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

/// A pickle taken apart into data: nothing that it names is looked up or called. Values name one another by their place in `values`.
struct Pickle {
  using Ref = uint32_t;
  enum class Kind : uint8_t { none, boolean, integer, long_integer, real, text, bytes, tuple, list, dict, global, call, persistent };
  struct Value {
    Kind kind = Kind::none;
    int64_t integer = 0;  // also of a boolean
    double real = 0;
    std::string_view text;   // of text (UTF-8), bytes, and the little-endian bytes of an integer of more than 64 bits
    std::string name;        // of a global: "module.name"
    std::vector<Ref> items;  // of a tuple or list; of a dict key, value, key, value; of a call global, arguments; of a persistent its id
  };
  std::vector<Value> values;
  Ref root = 0;
  size_t bytes = 0;  // of the input that the pickle takes

  const Value& operator[](Ref r) const { return values[r]; }
};

/// Reads one pickle of protocol 2 to 5 from the front of `input`; strings of the result are views of it. `what` names it in messages.
/// `allowed` tells of a global ("collections.OrderedDict") whether the pickle may name it. Time and memory are linear in the input.
/// Throws Error(invalid) naming a global that is not allowed, or saying where and what else is wrong.
Pickle read_pickle(std::string_view input, const std::string& what, const std::function<bool(const std::string& global)>& allowed);

}  // namespace neox
