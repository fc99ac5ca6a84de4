// SPDX-License-Identifier: Apache-2.0
#include "cpu/int8_loop.h"

namespace neox {
namespace {

constexpr int kLanes = 64;

void multiply(int64_t count) {
  int8_t a[kLanes], b[kLanes];
  int32_t sums[kLanes] = {};
  for (int i = 0; i < kLanes; i++) a[i] = int8_t(i), b[i] = int8_t(i * 3);
  for (int64_t n = 0; n < count; n++) {
    asm volatile("" ::"r"(a), "r"(b), "r"(sums) : "memory");  // or the loop would be left out
    for (int i = 0; i < kLanes; i++) sums[i] += int32_t(a[i]) * b[i];
  }
}

}  // namespace

Int8Loop int8_loop() { return {.instruction = "the compiler's", .run = multiply, .operations = 2.0 * kLanes}; }

}  // namespace neox
