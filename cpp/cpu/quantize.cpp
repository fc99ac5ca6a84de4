// SPDX-License-Identifier: Apache-2.0
// Weights and inputs as integers. Compiled once per instruction set; there is no fused multiply-add in it, so all give the same.
#include "cpu/integers.h"
#include "cpu/isa.h"

namespace neox::NEOX_ISA {
namespace {

template <class N> INL void store_n(int8_t* p, I x, N n) {
  if constexpr (std::is_same_v<N, int64_t>) {
    int8_t t[kLanes];
    store_i8(t, x);
    std::memcpy(p, t, size_t(n));
  } else {
    store_i8(p, x);
  }
}

/// q = x * inverse.
void to_integers(const float* x, int64_t n, float inverse, int8_t* q) {
  by_lanes(n, [&](int64_t i, auto lanes) { store_n(q + i, integers(load_n(x + i, lanes), inverse), lanes); });
}

INL F level(F x, float inverse) {  // of 4 bits
  return max(min(nearest(mul(x, set1(inverse))), set1(7.f)), set1(-8.f));
}
float squared_error(const float* x, int64_t n, float scale, float inverse) {
  F total = set1(0.f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const F v = load(x + i), d = sub(v, mul(level(v, inverse), set1(scale)));
    total = add(total, mul(d, d));
  }
  return sum(total);
}

float as_f16(float x) { return f16_to_f32(f32_to_f16(x)); }

/// The scale of the least squared error among these: the value of the largest magnitude becomes 7 or -7; or -8, exactly or clipped by up to
/// a fifth.
float group_scale(const float* x, int64_t n) {
  const float most = magnitude(x, n);
  if (!(most >= kTiny)) return most < kTiny ? 0.f : most;
  float peak = most;  // with its sign
  for (int64_t i = 0; i < n; i++)
    if (std::fabs(x[i]) == most) {
      peak = x[i];
      break;
    }
  if (!std::isfinite(as_f16(most * 0.8f / 8.f))) return std::numeric_limits<float>::quiet_NaN();  // beyond what f16 can scale
  float best = 0.f, least = std::numeric_limits<float>::infinity();
  for (const float part : {8.f / 7.f, 1.f, 0.95f, 0.9f, 0.85f, 0.8f}) {
    const float scale = as_f16(peak * part / -8.f);
    if (scale == 0.f) continue;  // below f16's least
    if (const float error = squared_error(x, n, scale, 1.f / scale); error < least) best = scale, least = error;
  }
  return best;
}

}  // namespace

void quantize_row(const float* row, int64_t n, Format to, int8_t* q, float* scale) {
  if (!is_grouped(to.dtype)) {
    const Quantum step(magnitude(row, n));
    *scale = step.scale;
    return to_integers(row, n, step.inverse, q);
  }
  for (int64_t g = 0; g < n; g += to.group) {
    const float s = group_scale(row + g, to.group), inverse = std::fabs(s) > 0.f ? 1.f / s : 0.f;
    scale[g / to.group] = s;
    for (int64_t i = g; i < g + to.group; i += kLanes) store_i8(q + i, to_int(level(load(row + i), inverse)));
  }
}

void narrow_rows(const Tensor& x, Format weight, const NarrowRows& out, int64_t row0, int64_t row1) {
  const int64_t K = x.cols, group = weight.group ? weight.group : K;
  const int32_t from = is_grouped(weight.dtype) ? -8 : -128;
  for (int64_t r = row0; r < row1; r++) {
    const float* row = x.row(r);
    const Quantum step(magnitude(row, K));
    out.scale[r] = step.scale;
    int8_t* q = out.q + r * out.ld;
    for (int64_t g = 0; g < out.groups; g++) {
      I total = set1(0);
      by_lanes(group, [&](int64_t i, auto lanes) {
        const I v = integers(load_n(row + g * group + i, lanes), step.inverse);
        store_n(q + g * group + i, v, lanes);
        total = add(total, v);
      });
      int32_t lanes[kLanes];
      uint32_t all = 0;  // of a row with a NaN it may overflow
      std::memcpy(lanes, &total, sizeof lanes);
      for (const int32_t v : lanes) all += uint32_t(v);
      out.offset[r * out.groups + g] = int32_t(uint32_t(from) * all);
    }
    std::memset(q + K, 0, size_t((K + 63) / 64 * 64 - K));
  }
}

}  // namespace neox::NEOX_ISA
