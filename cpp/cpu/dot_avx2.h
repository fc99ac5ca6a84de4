// SPDX-License-Identifier: Apache-2.0
// Sums of four products of bytes in each of sixteen lanes, in two AVX2 registers. Exact: nothing here saturates.
#pragma once
#include "cpu/vec_avx2.h"

namespace neox::NEOX_ISA {

INL __m256i add_pairs(__m256i acc, __m256i words) { return _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi16(1))); }
// The signed weight with the sign of s, times |s|: 2 * 127 * 127 fits 16 bits.
INL __m256i dot_i8(__m256i acc, __m256i w, __m256i s) {
  w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
  return add_pairs(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(w, s)));
}
INL I start_i8(int32_t) { return set1(0); }
INL I dot_i8(I acc, I w, I s) { return {dot_i8(acc.a, w.a, s.a), dot_i8(acc.b, w.b, s.b)}; }
INL I dot_u4(I acc, I w, I s) {
  return {add_pairs(acc.a, _mm256_maddubs_epi16(w.a, s.a)), add_pairs(acc.b, _mm256_maddubs_epi16(w.b, s.b))};
}

}  // namespace neox::NEOX_ISA
