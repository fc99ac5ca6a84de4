// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes in plain arrays, for any machine; the compiler vectorises the loops as far as its target allows.
// Where the target has no fused multiply-add, a product is rounded before it is added: the one difference in bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"
#include "base/platform.h"
#define INL [[gnu::always_inline]] static inline

namespace neox::NEOX_ISA {

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
constexpr int kAccumulators = 6;

template <class R, class Fn> INL R lanes(Fn f) {
  R r;
  for (int i = 0; i < 16; i++) r.v[i] = f(i);
  return r;
}
INL F set1(float a) {
  return lanes<F>([=](int) { return a; });
}
INL I set1(int32_t a) {
  return lanes<I>([=](int) { return a; });
}
INL F load(const float* p) {
  return lanes<F>([=](int i) { return p[i]; });
}
// The first n lanes, for what is left of a row; the others are 0, and are not touched in memory.
INL F load_first(const float* p, int64_t n) {
  return lanes<F>([=](int i) { return i < n ? p[i] : 0.f; });
}
INL void store_first(float* p, F x, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = x.v[i];
}
INL F first(F x, int64_t n) {
  return lanes<F>([=](int i) { return i < n ? x.v[i] : 0.f; });
}
INL I load_bits(const void* p) {
  I r;
  std::memcpy(&r, p, sizeof r);
  return r;
}
INL F load_f16(const void* p) {
  return lanes<F>([=](int i) { return f16_to_f32(static_cast<const uint16_t*>(p)[i]); });
}
INL I load_u16(const void* p) {
  return lanes<I>([=](int i) { return int32_t(static_cast<const uint16_t*>(p)[i]); });
}
INL I load_i8(const void* p) {
  return lanes<I>([=](int i) { return int32_t(static_cast<const int8_t*>(p)[i]); });
}
INL void store(float* p, F x) { std::memcpy(p, x.v, sizeof x.v); }
INL void store_f16(void* p, F x) {
  for (int i = 0; i < 16; i++) static_cast<uint16_t*>(p)[i] = f32_to_f16(x.v[i]);
}
INL void store_u16(void* p, I x) {
  for (int i = 0; i < 16; i++) static_cast<uint16_t*>(p)[i] = uint16_t(x.v[i]);
}
INL void store_i8(void* p, I x) {  // lanes hold -128 .. 127
  for (int i = 0; i < 16; i++) static_cast<int8_t*>(p)[i] = int8_t(x.v[i]);
}
INL float fma(float x, float y, float z) {
  if constexpr (kFastFma) return __builtin_fmaf(x, y, z);
  else return x * y + z;
}
INL F add(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] + y.v[i]; });
}
INL F sub(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] - y.v[i]; });
}
INL F mul(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] * y.v[i]; });
}
INL F div(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] / y.v[i]; });
}
INL F max(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
INL F min(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
}
INL F fma(F x, F y, F z) {
  return lanes<F>([&](int i) { return fma(x.v[i], y.v[i], z.v[i]); });
}
INL F nearest(F x) {
  return lanes<F>([&](int i) { return __builtin_nearbyintf(x.v[i]); });
}
INL F where_less(F x, F y, F yes, F no) {
  return lanes<F>([&](int i) { return x.v[i] < y.v[i] ? yes.v[i] : no.v[i]; });
}
INL F where_equal(F x, F y, F yes, F no) {
  return lanes<F>([&](int i) { return x.v[i] == y.v[i] ? yes.v[i] : no.v[i]; });
}
INL I add(I x, I y) {
  return lanes<I>([&](int i) { return int32_t(uint32_t(x.v[i]) + uint32_t(y.v[i])); });
}
INL I band(I x, I y) {
  return lanes<I>([&](int i) { return x.v[i] & y.v[i]; });
}
INL I bor(I x, I y) {
  return lanes<I>([&](int i) { return x.v[i] | y.v[i]; });
}
template <int n> INL I shl(I x) {
  return lanes<I>([&](int i) { return int32_t(uint32_t(x.v[i]) << n); });
}
template <int n> INL I shr(I x) {
  return lanes<I>([&](int i) { return int32_t(uint32_t(x.v[i]) >> n); });
}
INL I to_int(F x) {  // of an integral value; what int32 cannot hold gives INT32_MIN, as on x86
  return lanes<I>([&](int i) { return x.v[i] > -2147483648.f && x.v[i] < 2147483648.f ? int32_t(x.v[i]) : INT32_MIN; });
}
INL F to_float(I x) {
  return lanes<F>([&](int i) { return float(x.v[i]); });
}
INL F as_float(I x) {
  F r;
  std::memcpy(&r, &x, sizeof r);
  return r;
}
INL I as_bits(F x) {
  I r;
  std::memcpy(&r, &x, sizeof r);
  return r;
}
INL float sum(F x) {  // the one reduction tree: lanes i + (i + 8), then + 4, + 2, + 1
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; i++) x.v[i] += x.v[i + n];
  return x.v[0];
}
INL float largest(F x) {
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; i++) x.v[i] = x.v[i] > x.v[i + n] ? x.v[i] : x.v[i + n];
  return x.v[0];
}

}  // namespace neox::NEOX_ISA
