// SPDX-License-Identifier: Apache-2.0
// Passes over one row that the plain sources (tokens.cpp, sample.cpp) call. Compiled once per instruction set.
#include "cpu/isa.h"
#include "cpu/math.h"

namespace neox::NEOX_ISA {

void widen(DType from, const void* x, float* y, int64_t n) {
  dispatch(from, [&](auto type) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, load_as<type>(x, i));
    for (; i < n; i++) y[i] = load_as_f32(x, type, i);
  });
}

bool largest(const float* x, int64_t n, float* most) {
  F top = set1(x[0]), zero = set1(0.f);  // x * 0 is NaN where x is NaN or infinite
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const F v = load(x + i);
    top = max(top, v), zero = fma(v, set1(0.f), zero);
  }
  float tail_top = largest(top), tail_zero = sum(zero);
  for (; i < n; i++) tail_top = x[i] > tail_top ? x[i] : tail_top, tail_zero += x[i] * 0.f;
  *most = tail_top;
  return tail_zero == 0.f;
}

double exp_all(const float* x, int64_t n, float most, float scale, float* y) {
  const F m = set1(most), s = set1(scale);
  double total = 0;  // of blocks of 256: a vocabulary is too long for one float sum
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    F block = set1(0.f);
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) {
      const F e = exp(mul(sub(load(x + i), m), s));
      block = add(block, e);
      if (y) store(y + i, e);
    }
    if (i < end) {
      const F e = first(exp(mul(sub(load_first(x + i, end - i), m), s)), end - i);
      block = add(block, e);
      if (y) store_first(y + i, e, end - i);
    }
    total += sum(block);
  }
  return total;
}

}  // namespace neox::NEOX_ISA
