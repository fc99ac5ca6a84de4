// SPDX-License-Identifier: Apache-2.0
// What libFuzzer calls. An exception ends the program, which libFuzzer takes for a crash.
#include <cstdint>

#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const auto& [name, target] : neox::fuzz::targets()) target({reinterpret_cast<const char*>(data), size});
  return 0;
}
