// SPDX-License-Identifier: Apache-2.0
// Weights of i8 and i4 as the f32 numbers that they stand for. Included by linear.cpp, whose sums of such a weight are those of the f32
// matrix to the bit.
#pragma once
#include "cpu/kernels.h"
#include "cpu/math.h"

namespace neox::NEOX_ISA {

struct W8 {
  static constexpr DType kType = DType::i8;
};
struct W4 {
  static constexpr DType kType = DType::i4;
};

/// k0 <= k < k1 of a panel -> [k1 - k0][16].
INL void widen_panel(W8, const char* panel, int64_t, int32_t, int64_t k0, int64_t k1, float* out) {
  const F scale = load(reinterpret_cast<const float*>(panel));
  for (int64_t k = k0; k < k1; k++, out += kLanes) store(out, mul(to_float(load_i8(panel + 64 + k * kLanes)), scale));
}
/// k0 and k1 are multiples of the group, but for k1 = K.
INL void widen_panel(W4, const char* panel, int64_t K, int32_t group, int64_t k0, int64_t k1, float* out) {
  const char* b = panel + scale_bytes(K, {DType::i4, group}) + k0 * 8;
  for (int64_t g = k0 / group; g < k1 / group; g++) {
    const F scale = load_f16(panel + g * 32), offset = mul(scale, set1(-8.f));
    for (int64_t k = 0; k < group; k += 8, b += 64, out += 8 * kLanes) {
      const I eight = load_bits(b);
      each<8>([&](auto j) {
        const I nibble = band(shr<8 * (j % 4) + 4 * (j / 4)>(eight), set1(15));
        store(out + j * kLanes, fma(to_float(nibble), scale, offset));  // exact before it is rounded, fused or not: f16 times 4 bits
      });
    }
  }
}

}  // namespace neox::NEOX_ISA
