// SPDX-License-Identifier: Apache-2.0
// Sums of four products of bytes in each of sixteen lanes, for any machine.
#pragma once
#include "cpu/vec_generic.h"

namespace neox::NEOX_ISA {

INL int32_t byte_sum(int32_t acc, int32_t w, int32_t s, int32_t from) {
  for (int shift = 0; shift < 32; shift += 8) acc += ((w >> shift & 255) - from) * int32_t(int8_t(s >> shift));
  return acc;
}
INL I start_i8(int32_t) { return set1(0); }
INL I dot_i8(I acc, I w, I s) {
  return lanes<I>([&](int i) { return byte_sum(acc.v[i], w.v[i], s.v[i], 128); });
}
INL I dot_u4(I acc, I w, I s) {
  return lanes<I>([&](int i) { return byte_sum(acc.v[i], w.v[i], s.v[i], 0); });
}

}  // namespace neox::NEOX_ISA
