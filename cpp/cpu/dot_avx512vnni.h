// SPDX-License-Identifier: Apache-2.0
// Sums of four products of bytes in each of sixteen lanes: one instruction of AVX512-VNNI, which takes the weight without its sign.
#pragma once
#include "cpu/vec_avx512.h"

namespace neox::NEOX_ISA {

// In assembly because g++ 12 copies and spills the accumulators of _mm512_dpbusd_epi32.
INL I dot_u4(I acc, I w, I s) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(s));
  return acc;
}
INL I start_i8(int32_t offset) { return set1(offset); }  // -128 times the sum of s
INL I dot_i8(I acc, I w, I s) { return dot_u4(acc, w, s); }

}  // namespace neox::NEOX_ISA
