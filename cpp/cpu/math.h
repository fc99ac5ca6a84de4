// SPDX-License-Identifier: Apache-2.0
// Included by each kernel file after its instruction set: helpers over sixteen lanes, and exp, tanh and the activations, one polynomial
// each (own fits), the same bits on every instruction set.
#pragma once
#include <cstring>
#include <type_traits>
#include <utility>

#include NEOX_VEC
#include "backend/args.h"

namespace neox::NEOX_ISA {

/// Calls f with the constants 0 .. n - 1: a loop that is unrolled by construction.
template <int n, class Fn> INL void each(Fn&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (f(std::integral_constant<int, i>{}), ...); }
  (std::make_integer_sequence<int, n>{});
}

/// A loop over constant bounds that is unrolled, for accumulators that have to be registers: g++ 12 does not inline a lambda of that size,
/// and drops one that holds only a prefetch.
#define UNROLLED _Pragma("GCC unroll 16") for

template <DType T> INL F load_as(const void* base, int64_t i) {  // 16 elements from the i-th on
  if constexpr (T == DType::f32) return load(static_cast<const float*>(base) + i);
  else if constexpr (T == DType::i8) return to_float(load_i8(static_cast<const int8_t*>(base) + i));
  else if constexpr (T == DType::f16) return load_f16(static_cast<const uint16_t*>(base) + i);
  else return as_float(shl<16>(load_u16(static_cast<const uint16_t*>(base) + i)));
}
template <DType T> INL void store_as(void* base, int64_t i, F x) {
  if constexpr (T == DType::f32) {
    store(static_cast<float*>(base) + i, x);
  } else if constexpr (T == DType::f16) {
    store_f16(static_cast<uint16_t*>(base) + i, x);
  } else {  // to nearest even; a NaN gets its quiet bit, so that dropping the low half cannot make it an infinity
    const I u = as_bits(x), top = shr<16>(u);
    const I rounded = shr<16>(add(u, add(set1(0x7fff), band(top, set1(1)))));
    store_u16(static_cast<uint16_t*>(base) + i, as_bits(where_equal(x, x, as_float(rounded), as_float(bor(top, set1(0x40))))));
  }
}

INL F abs(F x) { return as_float(band(as_bits(x), set1(0x7fffffff))); }
INL F with_sign_of(F x, F magnitude) { return as_float(bor(as_bits(magnitude), band(as_bits(x), set1(INT32_MIN)))); }
INL F horner(F, F acc) { return acc; }
template <class... C> INL F horner(F x, F acc, float c, C... rest) { return horner(x, fma(acc, x, set1(c)), rest...); }

INL F exp(F x) {  // x <= 88; below -87.3 it is 0
  const F n = nearest(mul(x, set1(1.44269504f)));
  F r = fma(n, set1(-0.693359375f), x);  // ln 2 in two parts, the first exact times n
  r = fma(n, set1(2.12194440e-4f), r);
  const F q = horner(r, set1(0.00138145348f), 0.00836874545f, 0.0416683927f, 0.166665211f, 0.49999994f);
  const F p = add(fma(mul(r, r), q, r), set1(1.f));
  return where_less(x, set1(-87.3f), set1(0.f), as_float(add(as_bits(p), shl<23>(to_int(n)))));
}
INL F tanh(F x) {
  const F a = min(abs(x), set1(10.f)), s = mul(a, a);
  const F q = horner(s, set1(-0.00564829679f), 0.0205898061f, -0.0537251197f, 0.133312747f, -0.333332747f);
  const F e = exp(mul(a, set1(-2.f)));
  const F big = div(sub(set1(1.f), e), add(set1(1.f), e));
  return with_sign_of(x, where_less(a, set1(0.63f), fma(mul(a, s), q, a), big));
}
INL F gelu(F x) {  // x (1 + erf(x / sqrt 2)) / 2 by erfc(a) = exp(-a p(a)): no cancellation on either side
  const F a = mul(abs(x), set1(0.707106781f)), far = set1(4.2f), near = min(a, far);
  const F p = horner(near, set1(-6.45907357e-06f), 8.98565559e-05f, -0.000520567177f, 0.0014282912f, 0.000128272281f, -0.0193530805f,
                     0.102853715f, 0.636605442f, 1.12838006f);
  const F tail = mul(set1(0.5f), exp(mul(mul(near, set1(-1.f)), p)));
  const F h = mul(x, where_less(far, a, set1(0.f), tail));
  return where_less(x, set1(0.f), h, sub(x, h));
}
INL F gelu_tanh(F x) {
  const F inner = mul(mul(set1(0.797884561f), x), fma(mul(set1(0.044715f), x), x, set1(1.f)));
  return mul(mul(set1(0.5f), x), add(set1(1.f), tanh(inner)));
}
INL F silu(F x) {  // x / (1 + e^-x), by e^-|x|
  const F e = exp(mul(abs(x), set1(-1.f)));
  return div(mul(x, where_less(x, set1(0.f), e, set1(1.f))), add(set1(1.f), e));
}
INL F activate(Act act, F x) {
  switch (act) {
    case Act::gelu: return gelu(x);
    case Act::gelu_tanh: return gelu_tanh(x);
    case Act::relu: return where_less(x, set1(0.f), set1(0.f), x);
    case Act::silu: return silu(x);
    default: return x;
  }
}

}  // namespace neox::NEOX_ISA
