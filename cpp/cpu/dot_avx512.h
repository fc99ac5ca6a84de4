// SPDX-License-Identifier: Apache-2.0
// Sums of four products of bytes in each of sixteen lanes, in one AVX-512 register, without VNNI. Exact: nothing here saturates.
#pragma once
#include "cpu/vec_avx512.h"

namespace neox::NEOX_ISA {

INL I add_pairs(I acc, __m512i words) { return _mm512_add_epi32(acc, _mm512_madd_epi16(words, _mm512_set1_epi16(1))); }
INL I start_i8(int32_t) { return set1(0); }
INL I dot_i8(I acc, I w, I s) {  // the signed weight with the sign of s, times |s|: 2 * 127 * 127 fits 16 bits
  w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
  w = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(s), _mm512_setzero_si512(), w);
  return add_pairs(acc, _mm512_maddubs_epi16(_mm512_abs_epi8(s), w));
}
INL I dot_u4(I acc, I w, I s) { return add_pairs(acc, _mm512_maddubs_epi16(w, s)); }

}  // namespace neox::NEOX_ISA
