// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes in two AVX2 registers, with FMA and F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>
#define INL [[gnu::always_inline]] static inline

namespace neox::NEOX_ISA {

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
constexpr int kAccumulators = 6;

INL F set1(float a) {
  const __m256 v = _mm256_set1_ps(a);
  return {v, v};
}
INL I set1(int32_t a) {
  const __m256i v = _mm256_set1_epi32(a);
  return {v, v};
}
INL F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
// The first n lanes, for what is left of a row; the others are 0, and are not touched in memory.
INL I mask_of(int64_t n) {
  const __m256i end = _mm256_set1_epi32(int(n)), lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_cmpgt_epi32(end, lane), _mm256_cmpgt_epi32(end, _mm256_add_epi32(lane, _mm256_set1_epi32(8)))};
}
INL F load_first(const float* p, int64_t n) {
  const I m = mask_of(n);
  return {_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
}
INL void store_first(float* p, F x, int64_t n) {
  const I m = mask_of(n);
  _mm256_maskstore_ps(p, m.a, x.a), _mm256_maskstore_ps(p + 8, m.b, x.b);
}
INL F first(F x, int64_t n) {
  const I m = mask_of(n);
  return {_mm256_and_ps(x.a, _mm256_castsi256_ps(m.a)), _mm256_and_ps(x.b, _mm256_castsi256_ps(m.b))};
}
INL I load_bits(const void* p) {
  const auto q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
INL F load_f16(const void* p) {
  const auto q = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
INL I load_u16(const void* p) {
  const auto q = static_cast<const __m128i*>(p);
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), _mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1))};
}
INL I load_i8(const void* p) {
  const auto q = static_cast<const char*>(p);
  return {_mm256_cvtepi8_epi32(_mm_loadu_si64(q)), _mm256_cvtepi8_epi32(_mm_loadu_si64(q + 8))};
}
INL void store(float* p, F x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
INL void store_f16(void* p, F x) {
  const auto q = static_cast<__m128i*>(p);
  _mm_storeu_si128(q, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(q + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INL void store_u16(void* p, I x) {  // lanes hold 0 .. 65535
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(_mm256_packus_epi32(x.a, x.b), 0xd8));
}
INL void store_i8(void* p, I x) {  // lanes hold -128 .. 127
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
INL F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
INL F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
INL F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
INL F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
INL F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
INL F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
INL F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INL float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
INL F nearest(F x) {
  constexpr int r = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, r), _mm256_round_ps(x.b, r)};
}
INL F where_less(F x, F y, F yes, F no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
INL F where_equal(F x, F y, F yes, F no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ))};
}
INL I add(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
INL I band(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
INL I bor(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int n> INL I shl(I x) { return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
template <int n> INL I shr(I x) { return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)}; }
INL I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
INL F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
INL F as_float(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
INL I as_bits(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
INL float sum(F x) {  // the one reduction tree: lanes i + (i + 8), then + 4, + 2, + 1
  const __m256 a = _mm256_add_ps(x.a, x.b);
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
INL float largest(F x) {
  const __m256 a = _mm256_max_ps(x.a, x.b);
  __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

}  // namespace neox::NEOX_ISA
