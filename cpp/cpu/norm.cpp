// SPDX-License-Identifier: Apache-2.0
// x += add + bias, then up to two LayerNorms of the same row. Compiled once per instruction set.
#include <cmath>

#include "cpu/isa.h"
#include "cpu/math.h"

namespace neox::NEOX_ISA {
namespace {

/// Calls f(column, lanes) over n columns in chunks of 16, the last of fewer.
template <class Fn> INL void chunks(int64_t n, Fn&& f) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) f(i, std::integral_constant<int, 16>{});
  if (i < n) f(i, int(n - i));
}
template <class N> INL F load_n(const float* p, N n) {
  if constexpr (std::is_same_v<N, int>) return load_first(p, n);
  else return load(p);
}
template <class N> INL void store_n(float* p, F x, N n) {
  if constexpr (std::is_same_v<N, int>) store_first(p, x, n);
  else store(p, x);
}

float add_row(float* x, const float* y, const float* bias, int64_t n) {  // returns the sum of the new x
  F total = set1(0.f);
  chunks(n, [&](int64_t i, auto lanes) {
    F v = load_n(x + i, lanes);
    if (y) v = add(v, load_n(y + i, lanes));
    if (bias) v = add(v, load_n(bias + i, lanes));
    if (y || bias) store_n(x + i, v, lanes);
    total = add(total, v);
  });
  return sum(total);
}

float spread(const float* x, float mean, int64_t n) {  // sum of squared distances from the mean
  F total = set1(0.f);
  chunks(n, [&](int64_t i, auto lanes) {
    F d = sub(load_n(x + i, lanes), set1(mean));
    if constexpr (std::is_same_v<decltype(lanes), int>) d = first(d, lanes);
    total = fma(d, d, total);
  });
  return sum(total);
}

void normalize(const float* x, float mean, float variance, const Norm& norm, float* out, int64_t n) {
  const float scale = 1.f / std::sqrt(variance + norm.eps);
  const float *gamma = norm.gamma.row(0), *beta = norm.beta.row(0);
  chunks(n, [&](int64_t i, auto lanes) {
    const F d = mul(sub(load_n(x + i, lanes), set1(mean)), set1(scale));
    store_n(out + i, fma(d, load_n(gamma + i, lanes), load_n(beta + i, lanes)), lanes);
  });
}

}  // namespace

void add_norm(const AddNormArgs& a, int64_t row0, int64_t row1) {
  const int64_t n = a.x.cols;
  for (int64_t r = row0; r < row1; r++) {
    float* x = a.x.row(r);
    const float mean = add_row(x, a.add ? a.add.row(r) : nullptr, a.bias ? a.bias.row(0) : nullptr, n) / float(n);
    if (!a.norm) continue;
    const float variance = spread(x, mean, n) / float(n);
    normalize(x, mean, variance, *a.norm, a.out.row(r), n);
    if (a.norm2) normalize(x, mean, variance, *a.norm2, a.out2.row(r), n);
  }
}

}  // namespace neox::NEOX_ISA
