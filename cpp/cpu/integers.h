// SPDX-License-Identifier: Apache-2.0
// Numbers as 8-bit integers with one scale. Included by each kernel file that makes them; no fused multiply-add is in it, so every
// instruction set gives the same.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/math.h"

namespace neox::NEOX_ISA {

/// Calls f(i, lanes) for 16 values at a time, lanes 16 but for what is left.
template <class Fn> INL void by_lanes(int64_t n, Fn&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, std::integral_constant<int64_t, kLanes>{});
  if (i < n) f(i, n - i);
}
template <class N> INL F load_n(const float* p, N n) {
  if constexpr (std::is_same_v<N, int64_t>) return load_first(p, n);
  else return load(p);
}

/// The largest magnitude, NaN where a value is NaN or infinite.
INL float magnitude(const float* x, int64_t n) {
  F top = set1(0.f), zero = set1(0.f);  // x * 0 is NaN where x is NaN or infinite
  by_lanes(n, [&](int64_t i, auto lanes) {
    const F v = load_n(x + i, lanes);
    top = max(top, abs(v)), zero = add(zero, mul(v, set1(0.f)));
  });
  return sum(zero) == 0.f ? largest(top) : std::numeric_limits<float>::quiet_NaN();
}

/// x = q * scale, to nearest even. A magnitude below kTiny counts as 0, since its inverse might be infinite; NaN is in the scale.
constexpr float kTiny = 1e-30f;
struct Quantum {
  float scale, inverse;
  explicit Quantum(float most) : scale(most < kTiny ? 0.f : most / 127.f), inverse(most >= kTiny ? 127.f / most : 0.f) {}
};
INL I integers(F x, float inverse) { return to_int(nearest(mul(x, set1(inverse)))); }

}  // namespace neox::NEOX_ISA
