// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace neox {

/// The fastest products of bytes that this processor sums into 32 bits, out of registers alone. One file for each family of processors.
struct Int8Loop {
  const char* instruction;
  void (*run)(int64_t count);  // so many times
  double operations;           // of each: a product and a sum are two
};
Int8Loop int8_loop();

}  // namespace neox
