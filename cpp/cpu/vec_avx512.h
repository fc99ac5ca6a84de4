// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes in one AVX-512 register.
#pragma once
#include <immintrin.h>

#include <cstdint>
#define INL [[gnu::always_inline]] static inline

namespace neox::NEOX_ISA {

using F = __m512;                  // 16 f32
using I = __m512i;                 // 16 i32
constexpr int kAccumulators = 24;  // of 16 lanes, with room left for weights and a broadcast

INL F set1(float a) { return _mm512_set1_ps(a); }
INL I set1(int32_t a) { return _mm512_set1_epi32(a); }
INL F load(const float* p) { return _mm512_loadu_ps(p); }
// The first n lanes, for what is left of a row; the others are 0, and are not touched in memory. No calls of memcpy: kernels that keep
// their sums in registers would spill them around one.
INL __mmask16 mask_of(int64_t n) { return __mmask16((1u << n) - 1); }
INL F load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(mask_of(n), p); }
INL void store_first(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, mask_of(n), x); }
INL F first(F x, int64_t n) { return _mm512_maskz_mov_ps(mask_of(n), x); }
INL I load_bits(const void* p) { return _mm512_loadu_si512(p); }
INL F load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
INL I load_u16(const void* p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
INL I load_i8(const void* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
INL void store(float* p, F x) { _mm512_storeu_ps(p, x); }
INL void store_f16(void* p, F x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INL void store_u16(void* p, I x) { _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x)); }
INL void store_i8(void* p, I x) { _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x)); }  // lanes hold -128 .. 127
INL F add(F x, F y) { return _mm512_add_ps(x, y); }
INL F sub(F x, F y) { return _mm512_sub_ps(x, y); }
INL F mul(F x, F y) { return _mm512_mul_ps(x, y); }
INL F div(F x, F y) { return _mm512_div_ps(x, y); }
INL F max(F x, F y) { return _mm512_max_ps(x, y); }
INL F min(F x, F y) { return _mm512_min_ps(x, y); }
INL F fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
INL float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
INL F nearest(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INL F where_less(F x, F y, F yes, F no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), no, yes); }
INL F where_equal(F x, F y, F yes, F no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ), no, yes); }
INL I add(I x, I y) { return _mm512_add_epi32(x, y); }
INL I band(I x, I y) { return _mm512_and_si512(x, y); }
INL I bor(I x, I y) { return _mm512_or_si512(x, y); }
template <int n> INL I shl(I x) { return _mm512_slli_epi32(x, n); }
template <int n> INL I shr(I x) { return _mm512_srli_epi32(x, n); }
INL I to_int(F x) { return _mm512_cvtps_epi32(x); }
INL F to_float(I x) { return _mm512_cvtepi32_ps(x); }
INL F as_float(I x) { return _mm512_castsi512_ps(x); }
INL I as_bits(F x) { return _mm512_castps_si512(x); }
INL void halves(F x, __m256& low, __m256& high) { low = _mm512_castps512_ps256(x), high = _mm512_extractf32x8_ps(x, 1); }
INL float sum(F x) {  // the one reduction tree: lanes i + (i + 8), then + 4, + 2, + 1
  __m256 low, high;
  halves(x, low, high);
  const __m256 a = _mm256_add_ps(low, high);
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
INL float largest(F x) {
  __m256 low, high;
  halves(x, low, high);
  const __m256 a = _mm256_max_ps(low, high);
  __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

}  // namespace neox::NEOX_ISA
