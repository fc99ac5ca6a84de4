// SPDX-License-Identifier: Apache-2.0
// add_norm: x += add + bias, then up to two LayerNorms of it.
#include "harness.h"

namespace neox::test {
namespace {

constexpr double kError = 5e-7;

struct Values {
  Matrix x, add, bias, gamma, beta, gamma2, beta2;
  Values(Random& random, int64_t rows, int64_t n, double mean = 0.5)
      : x(random.matrix(rows, n, mean - 2, mean + 2)), add(random.matrix(rows, n, -1, 1)), bias(random.matrix(1, n, -1, 1)),
        gamma(random.matrix(1, n, 0.5, 1.5)), beta(random.matrix(1, n, -0.5, 0.5)), gamma2(random.matrix(1, n, 0.5, 1.5)),
        beta2(random.matrix(1, n, -0.5, 0.5)) {}
};

/// Which of the op's parts are used.
struct Parts {
  int add, bias, norms;
};
constexpr Parts kParts[] = {{0, 0, 1}, {0, 0, 2}, {1, 0, 1}, {1, 1, 1}, {1, 1, 2}, {0, 1, 2}, {1, 0, 0}, {1, 1, 0}};

struct Device {
  DeviceMatrix x, add, bias, gamma, beta, gamma2, beta2, out, out2;
  Device(Backend& b, const Values& v, DType dtype, int64_t pad)
      : x(b, v.x, DType::f32, pad), add(b, v.add, DType::f32, pad / 2), bias(b, v.bias), gamma(b, v.gamma), beta(b, v.beta),
        gamma2(b, v.gamma2), beta2(b, v.beta2), out(b, v.x.rows, v.x.cols, dtype, pad), out2(b, v.x.rows, v.x.cols, dtype) {}

  void run(Backend& b, Parts p, float eps) const {
    const Norm norm{.gamma = gamma, .beta = beta, .eps = eps}, norm2{.gamma = gamma2, .beta = beta2, .eps = eps};
    AddNormArgs args{.x = x};
    if (p.add) args.add = add;
    if (p.bias) args.bias = bias;
    if (p.norms > 0) args.norm = &norm, args.out = out;
    if (p.norms > 1) args.norm2 = &norm2, args.out2 = out2;
    b.add_norm(args);
  }
  void expect_untouched_around() const {
    for (const DeviceMatrix* m : {&x, &add, &bias, &gamma, &beta, &gamma2, &beta2, &out, &out2}) EXPECT_TRUE(m->surroundings_untouched());
  }
};

void check(Backend& backend, const Values& v, Parts parts, float eps, double error, DType model = DType::f32) {
  const DType dtype = backend.activation_dtype(model);
  error += rounding_error(dtype);
  const Device d(backend, v, dtype, v.x.cols % 5);
  d.run(backend, parts, eps);
  Matrix x = v.x;
  reference::add(x, parts.add ? v.add : Matrix(), parts.bias ? v.bias : Matrix());
  EXPECT_LE(relative_error(d.x.values(), x), 1e-7);
  if (parts.norms > 0) { EXPECT_LE(relative_error(d.out.values(), reference::norm(x, v.gamma, v.beta, eps)), error); }
  if (parts.norms > 1) { EXPECT_LE(relative_error(d.out2.values(), reference::norm(x, v.gamma2, v.beta2, eps)), error); }
  d.expect_untouched_around();
}

std::string bits_of_all(Backend& backend) {
  std::string bits;
  Random random(5);
  for (int64_t n : {1, 7, 40, 257, 768})
    for (Parts parts : kParts) {
      const Device d(backend, Values(random, 19, n), DType::f32, 0);
      d.run(backend, parts, 1e-5f);
      bits += d.x.bits() + d.out.bits() + d.out2.bits();
    }
  return bits;
}

}  // namespace

NEOX_OP_TEST(AddNorm);
NEOX_SAME_BITS_TEST(AddNormBits);

TEST_P(AddNorm, AgreesWithTheReferenceForEveryShapeAndEveryUse) {
  Random random(1);
  for (int64_t n : {7, 16, 40, 255, 256, 257, 768, 5120})
    for (int64_t rows : {1, 3, 17, 130})
      for (Parts parts : kParts) {
        if (n * rows > 130 * 768) continue;
        SCOPED_TRACE(describe({{"hidden", n}, {"rows", rows}, {"add", parts.add}, {"bias", parts.bias}, {"norms", parts.norms}}));
        check(*backend_, Values(random, rows, n), parts, 1e-5f, kError);
      }
}

TEST_P(AddNorm, OutsAreOfTheActivationType) {
  Random random(9);
  for (DType dtype : kDTypes)
    for (int64_t n : {7, 40, 768, 6144}) check(*backend_, Values(random, 3, n), {1, 1, 2}, 1e-5f, kError, dtype);
}

TEST_P(AddNorm, ARowOfTwoColumnsCostsTheDifferenceOfTwoRoundings) {
  Random random(8);
  for (Parts parts : kParts) check(*backend_, Values(random, 130, 2), parts, 1e-5f, 5e-6);
}

TEST_P(AddNorm, ARowOfOneColumnIsItsBeta) {
  Random random(2);
  const Values v(random, 3, 1);
  const Device d(*backend_, v, DType::f32, 0);
  d.run(*backend_, {1, 1, 1}, 1e-5f);
  for (double y : d.out.values().v) EXPECT_EQ(y, v.beta.v[0]);
}

TEST_P(AddNorm, EpsilonIsUsed) {
  Random random(3);
  for (float eps : {1e-12f, 1e-5f, 0.1f, 10.f}) check(*backend_, Values(random, 5, 40), {1, 1, 2}, eps, kError);
}

TEST_P(AddNorm, ALargeMeanCostsItsOwnRoundingOnly) {
  // The residual stream of real models has outliers: the variance must not be a difference of two large sums.
  Random random(4);
  check(*backend_, Values(random, 17, 257, 1000), {0, 0, 1}, 1e-5f, 1e-4);
}

TEST_P(AddNorm, AConstantRowIsItsBeta) {
  Random random(6);
  Values v(random, 2, 64);
  for (double& x : v.x.v) x = 0.75;
  const Device d(*backend_, v, DType::f32, 0);
  d.run(*backend_, {0, 0, 1}, 1e-5f);
  for (int64_t r = 0; r < 2; r++)
    for (int64_t c = 0; c < 64; c++) EXPECT_EQ(d.out.values().at(r, c), v.beta.at(0, c));
}

TEST_P(AddNorm, ARowHasTheSameBitsAloneAndInAnyBatch) {
  Random random(7);
  for (int64_t n : {7, 257, 768}) {
    const Values v(random, 33, n);
    const Device batch(*backend_, v, DType::f32, 3);
    batch.run(*backend_, {1, 1, 2}, 1e-5f);
    std::string alone[3];
    for (int64_t r = 0; r < 33; r++) {
      Values one = v;
      one.x = v.x.slice(r, 1), one.add = v.add.slice(r, 1);
      const Device d(*backend_, one, DType::f32, 0);
      d.run(*backend_, {1, 1, 2}, 1e-5f);
      alone[0] += d.x.bits(), alone[1] += d.out.bits(), alone[2] += d.out2.bits();
    }
    EXPECT_TRUE(batch.x.bits() == alone[0]);
    EXPECT_TRUE(batch.out.bits() == alone[1]);
    EXPECT_TRUE(batch.out2.bits() == alone[2]);
  }
}

TEST_P(AddNormBits, AreThoseOfOneThreadAndOfEveryInstructionSet) { EXPECT_TRUE(bits_of_all(*backend_) == bits_of_all(*baseline_)); }

}  // namespace neox::test
