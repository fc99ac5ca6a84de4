// SPDX-License-Identifier: Apache-2.0
// Chains of sums that do not wait for each other, as many as hide an instruction's latency. In assembly, so that none is left out or
// spilled.
#include <immintrin.h>

#include "cpu/int8_loop.h"

namespace neox {
namespace {

constexpr int kChains = 12;

[[gnu::target("avx512f")]] void multiply_vnni(int64_t count) {
  __m512i sums[kChains], x = _mm512_set1_epi8(1);
  for (__m512i& sum : sums) sum = x;
  for (int64_t n = 0; n < count; n++) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) asm volatile("vpdpbusd %1, %1, %0" : "+v"(sum) : "v"(x));
  }
}

[[gnu::target("avx2")]] void multiply_avx2(int64_t count) {
  __m256i sums[kChains], product, x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  for (__m256i& sum : sums) sum = x;
  for (int64_t n = 0; n < count; n++) {
#pragma GCC unroll 12
    for (__m256i& sum : sums)
      asm volatile("vpmaddubsw %2, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(x), "x"(ones));
  }
}

void multiply_sse2(int64_t count) {
  __m128i sums[kChains], product, x = _mm_set1_epi16(1);
  for (__m128i& sum : sums) sum = x;
  for (int64_t n = 0; n < count; n++) {
#pragma GCC unroll 12
    for (__m128i& sum : sums) asm volatile("movdqa %2, %1\n\tpmaddwd %2, %1\n\tpaddd %1, %0" : "+x"(sum), "=&x"(product) : "x"(x));
  }
}

}  // namespace

Int8Loop int8_loop() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"))
    return {.instruction = "vpdpbusd, 512 bits", .run = multiply_vnni, .operations = 2.0 * 64 * kChains};
  if (__builtin_cpu_supports("avx2"))
    return {.instruction = "vpmaddubsw, 256 bits", .run = multiply_avx2, .operations = 2.0 * 32 * kChains};
  return {.instruction = "pmaddwd, 128 bits", .run = multiply_sse2, .operations = 2.0 * 8 * kChains};
}

}  // namespace neox
