// SPDX-License-Identifier: Apache-2.0
#include "base/dtype.h"

#include "harness.h"

namespace neox::test {
namespace {

float value_of(uint32_t bits, DType t) {
  const uint16_t stored[2] = {uint16_t(bits)};
  return load_as_f32(stored, t, 0);
}

void expect_rounds(float x, DType t) {
  uint16_t stored[2] = {};
  store_from_f32(stored, t, 0, x);
  const double got = load_as_f32(stored, t, 0), want = rounded(x, t);
  EXPECT_TRUE(got == want && std::signbit(got) == std::signbit(want))
      << name_of(t) << " of " << x << " is " << got << ", expected " << want;
}

}  // namespace

TEST(DTypes, EverySixteenBitValueComesBack) {
  for (DType t : {DType::f16, DType::bf16})
    for (uint32_t bits = 0; bits < 65536; bits++) {
      const float x = value_of(bits, t);
      uint16_t again[2] = {};
      store_from_f32(again, t, 0, x);
      if (std::isnan(x)) {
        EXPECT_TRUE(std::isnan(load_as_f32(again, t, 0))) << bits;
      } else {
        EXPECT_EQ(again[0], bits);
      }
    }
}

TEST(DTypes, ConversionRoundsToNearestEven) {
  Random random(1);
  for (DType t : {DType::f16, DType::bf16}) {
    for (uint32_t bits = 0; bits < 65535; bits++) {  // each value, the midpoint to the next, and either side of it
      const float a = value_of(bits, t), b = value_of(bits + 1, t);
      if (!std::isfinite(a) || !std::isfinite(b) || a == b) continue;
      const auto middle = float((double(a) + double(b)) / 2);
      for (float x : {a, middle, std::nextafterf(middle, a), std::nextafterf(middle, b)}) expect_rounds(x, t);
    }
    for (int i = 0; i < 20000; i++) expect_rounds(float(std::ldexp(random.uniform(-1, 1), random.below(200) - 100)), t);
    for (float x : {65504.f, 65519.f, 65520.f, 65536.f, 1e38f, 3.4028234e38f, INFINITY, -INFINITY, 1e-45f, -0.f}) expect_rounds(x, t);
  }
}

}  // namespace neox::test
