// SPDX-License-Identifier: Apache-2.0
// The activations' accuracy, seen through a linear whose weight is the identity: an output is then act of one input exactly.
#include "harness.h"

namespace neox::test {
namespace {

constexpr int64_t kWidth = 64;

Matrix activated(Backend& backend, Act act, const Matrix& x) {
  Matrix identity(x.cols, x.cols);
  for (int64_t i = 0; i < x.cols; i++) identity.at(i, i) = 1;
  const DeviceLinear w(backend, identity, Matrix(), DType::f32);
  const DeviceMatrix device_x(backend, x), out(backend, x.rows, x.cols);
  backend.linear({{.out = out, .x = device_x, .w = w, .act = act}});
  return out.values();
}

/// Both signs, from `low` to `high` in equal ratios.
Matrix sweep(double low, double high, int64_t rows) {
  Matrix x(rows, kWidth);
  for (size_t i = 0; i < x.v.size(); i++) {
    const double magnitude = low * std::pow(high / low, double(i / 2) / double(x.v.size() / 2));
    x.v[i] = rounded(i % 2 ? -magnitude : magnitude, DType::f32);
  }
  return x;
}

double ulp_of(double x) { return std::ldexp(1.0, std::max(std::ilogb(x), -126) - 23); }

/// The largest error, in units of the last place of x: an activation adds to sums whose terms are of that size.
double worst_ulps(Backend& backend, Act act, const Matrix& x) {
  const Matrix y = activated(backend, act, x);
  double worst = 0;
  for (size_t i = 0; i < x.v.size(); i++) {
    const double error = std::fabs(y.v[i] - reference::activate(act, x.v[i])) / ulp_of(x.v[i]);
    worst = error <= worst ? worst : error;  // a NaN stays
  }
  return worst;
}

}  // namespace

NEOX_OP_TEST(Activation);
NEOX_SAME_BITS_TEST(ActivationBits);

TEST_P(Activation, GeluIsWithinTwoUnitsOfTheLastPlace) {
  EXPECT_LE(worst_ulps(*backend_, Act::gelu, sweep(1e-8, 30, 1000)), 2);
  EXPECT_LE(worst_ulps(*backend_, Act::gelu, sweep(0.1, 8, 1000)), 2);
}

TEST_P(Activation, TanhGeluIsWithinTwoUnitsOfTheLastPlace) {
  EXPECT_LE(worst_ulps(*backend_, Act::gelu_tanh, sweep(1e-8, 30, 1000)), 2);
  EXPECT_LE(worst_ulps(*backend_, Act::gelu_tanh, sweep(0.1, 8, 1000)), 2);
}

TEST_P(Activation, SiluIsWithinTwoUnitsOfTheLastPlace) {
  EXPECT_LE(worst_ulps(*backend_, Act::silu, sweep(1e-8, 100, 1000)), 2);
  EXPECT_LE(worst_ulps(*backend_, Act::silu, sweep(0.1, 20, 1000)), 2);
}

TEST_P(Activation, ReluAndNoneAreExact) {
  for (Act act : {Act::relu, Act::none}) EXPECT_EQ(worst_ulps(*backend_, act, sweep(1e-8, 1e6, 100)), 0);
}

TEST_P(Activation, ErfAndTanhGeluAreTwoFunctions) {
  const Matrix x = sweep(0.5, 3, 10);
  EXPECT_GT(relative_error(activated(*backend_, Act::gelu, x), activated(*backend_, Act::gelu_tanh, x)), 1e-5);
}

TEST_P(Activation, FarInputsComeToTheirLimits) {
  for (Act act : {Act::gelu, Act::gelu_tanh, Act::silu, Act::relu})
    for (double size : {20.0, 1e3, 1e10, 1e18}) {
      Matrix x(2, 1);
      x.v = {size, -size};
      x = rounded(x, DType::f32);
      const Matrix y = activated(*backend_, act, x);
      EXPECT_EQ(y.v[0], x.v[0]) << int(act);
      EXPECT_NEAR(y.v[1], 0, 1e-7) << int(act) << " of " << -size;
    }
}

TEST_P(Activation, ZeroGivesZero) {
  for (Act act : {Act::gelu, Act::gelu_tanh, Act::silu, Act::relu}) EXPECT_EQ(activated(*backend_, act, Matrix(1, 1)).v[0], 0);
}

TEST_P(Activation, WhatIsNotFiniteIsNotHidden) {
  for (Act act : {Act::none, Act::gelu, Act::gelu_tanh, Act::silu, Act::relu}) {
    Matrix x(2, 1);
    x.v = {NAN, INFINITY};
    for (double y : activated(*backend_, act, x).v) EXPECT_FALSE(std::isfinite(y)) << int(act);
  }
}

TEST_P(ActivationBits, AreThoseOfEveryInstructionSet) {
  const Matrix x = sweep(1e-20, 100, 500);
  for (Act act : {Act::gelu, Act::gelu_tanh, Act::silu, Act::relu})
    EXPECT_TRUE(activated(*backend_, act, x).v == activated(*baseline_, act, x).v) << int(act);
}

}  // namespace neox::test
