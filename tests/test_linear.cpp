// SPDX-License-Identifier: Apache-2.0
// linear: out = act(x W^T + bias), in one part or two.
#include <array>

#include "harness.h"

namespace neox::test {
namespace {

constexpr int64_t kSizes[] = {1, 7, 16, 40, 255, 256, 257, 768};
constexpr int64_t kRowCounts[] = {1, 3, 17, 130};

/// Inputs with a mean, so that no output cancels to nothing and a relative error means something for a single one, too.
struct Problem {
  int64_t N, K;
  Matrix weight, bias, x;
  Problem(Random& random, int64_t rows, int64_t n, int64_t k, DType dtype, DType x_dtype)
      : N(n), K(k), weight(random.matrix(n, k, -0.25 / std::sqrt(double(k)), 1 / std::sqrt(double(k)), dtype)),
        bias(random.matrix(1, n, 0.1, 0.5, x_dtype)), x(random.matrix(rows, k, -0.25, 1, x_dtype)) {}
};

void check_rows(Backend& backend, const Problem& p, DType dtype) {
  const DType x_dtype = backend.activation_dtype(dtype);
  const DeviceLinear w(backend, p.weight, p.bias, dtype);
  const Matrix want = reference::linear(p.x, p.weight, p.bias, Act::none);
  for (int64_t rows : kRowCounts) {
    SCOPED_TRACE(describe({{"rows", rows}, {"outputs", p.N}, {"inputs", p.K}, {"dtype", int(dtype)}}));
    const DeviceMatrix x(backend, p.x.slice(0, rows), x_dtype, (p.N + rows) % 3 * 8), out(backend, rows, p.N, DType::f32, (p.K + rows) % 4);
    backend.linear({{.out = out, .x = x, .w = w}});
    EXPECT_LE(relative_error(out.values(), want.slice(0, rows)), summation_error(backend, dtype));
    EXPECT_TRUE(out.surroundings_untouched());
    EXPECT_TRUE(x.surroundings_untouched());
  }
}

/// A product with an activation, and the sum of two products: what must not depend on anything but the row.
class RowBits {
 public:
  RowBits(Backend& backend, const Problem& a, const Problem& b, DType dtype)
      : backend_(backend), a_(a), b_(b), dtype_(backend.activation_dtype(dtype)), wa_(backend, a.weight, a.bias, dtype),
        wb_(backend, b.weight, b.bias, dtype) {}

  /// Of a batch of these rows, each row's bits side by side, so that the results of batches can be joined.
  std::string of(int64_t first, int64_t count) const {
    const DeviceMatrix xa(backend_, a_.x.slice(first, count), dtype_, 16), xb(backend_, b_.x.slice(first, count), dtype_);
    const DeviceMatrix gelu(backend_, count, a_.N), sum(backend_, count, a_.N, DType::f32, 5);
    backend_.linear({{.out = gelu, .x = xa, .w = wa_, .act = Act::gelu}});
    backend_.linear({{.out = sum, .x = xa, .w = wa_}, {.out = sum, .x = xb, .w = wb_}});
    const std::string g = gelu.bits(), s = sum.bits();
    const size_t width = g.size() / size_t(count);
    std::string rows;
    for (size_t r = 0; r < size_t(count); r++) rows += g.substr(r * width, width) + s.substr(r * width, width);
    return rows;
  }

 private:
  Backend& backend_;
  const Problem &a_, &b_;
  DType dtype_;
  DeviceLinear wa_, wb_;
};

}  // namespace

NEOX_OP_TEST(LinearOp);
NEOX_EXACT_OP_TEST(LinearRowBits);
NEOX_SAME_BITS_TEST(LinearBits);

TEST_P(LinearOp, AgreesWithTheReferenceForEveryShapeAndWeightType) {
  Random random(1);
  for (DType dtype : kDTypes)
    for (int64_t N : kSizes)
      for (int64_t K : kSizes)
        if (std::min(N, K) < 255 || N == K)
          check_rows(*backend_, Problem(random, 130, N, K, dtype, backend_->activation_dtype(dtype)), dtype);
}

TEST_P(LinearOp, AgreesWithTheReferenceForLongSums) {
  Random random(2);
  for (DType dtype : kDTypes) check_rows(*backend_, Problem(random, 130, 33, 5001, dtype, backend_->activation_dtype(dtype)), dtype);
}

TEST_P(LinearOp, AgreesWithTheReferenceForManyOutputs) {
  Random random(3);
  for (DType dtype : kDTypes) check_rows(*backend_, Problem(random, 130, 5001, 33, dtype, backend_->activation_dtype(dtype)), dtype);
}

TEST_P(LinearOp, ABiasMayBeAbsent) {
  Random random(4);
  Problem p(random, 130, 40, 70, DType::f32, DType::f32);
  p.bias = Matrix();
  check_rows(*backend_, p, DType::f32);
}

TEST_P(LinearOp, PartsWithOneOutAddUpAndOthersDoNot) {
  Random random(5);
  for (DType dtype : kDTypes)
    for (int64_t rows : kRowCounts)
      for (auto [N, K, K2] : {std::array<int64_t, 3>{40, 64, 256}, {257, 300, 7}, {7, 1, 513}, {100, 257, 257}}) {
        SCOPED_TRACE(describe({{"dtype", int(dtype)}, {"rows", rows}, {"outputs", N}, {"inputs", K}, {"and", K2}}));
        const DType x_dtype = backend_->activation_dtype(dtype);
        const Problem a(random, rows, N, K, dtype, x_dtype), b(random, rows, N, K2, dtype, x_dtype);
        const DeviceLinear wa(*backend_, a.weight, Matrix(), dtype), wb(*backend_, b.weight, b.bias, dtype);
        const DeviceMatrix xa(*backend_, a.x, x_dtype), xb(*backend_, b.x, x_dtype);
        const DeviceMatrix sum(*backend_, rows, N, DType::f32, 3), left(*backend_, rows, N), right(*backend_, rows, N);
        backend_->linear({{.out = sum, .x = xa, .w = wa}, {.out = sum, .x = xb, .w = wb}});
        backend_->linear({{.out = left, .x = xa, .w = wa}, {.out = right, .x = xb, .w = wb, .act = Act::gelu}});
        Matrix want = reference::linear(a.x, a.weight, Matrix(), Act::none);
        const double error = summation_error(*backend_, dtype);
        EXPECT_LE(relative_error(left.values(), want), error);
        EXPECT_LE(relative_error(right.values(), reference::linear(b.x, b.weight, b.bias, Act::gelu)), error);
        reference::add(want, reference::linear(b.x, b.weight, b.bias, Act::none), Matrix());
        EXPECT_LE(relative_error(sum.values(), want), error);
        EXPECT_TRUE(sum.surroundings_untouched() && left.surroundings_untouched() && right.surroundings_untouched());
      }
}

TEST_P(LinearOp, PartsMayDifferInTheirNumberOfOutputs) {
  Random random(6);
  for (int64_t rows : kRowCounts) {
    const Problem a(random, rows, 33, 40, DType::f32, DType::f32), b(random, rows, 300, 40, DType::f32, DType::f32);
    const DeviceLinear wa(*backend_, a.weight, a.bias, DType::f32), wb(*backend_, b.weight, b.bias, DType::f32);
    const DeviceMatrix x(*backend_, a.x), left(*backend_, rows, 33), right(*backend_, rows, 300);
    backend_->linear({{.out = left, .x = x, .w = wa}, {.out = right, .x = x, .w = wb}});
    EXPECT_LE(relative_error(left.values(), reference::linear(a.x, a.weight, a.bias, Act::none)), summation_error(*backend_, DType::f32));
    EXPECT_LE(relative_error(right.values(), reference::linear(a.x, b.weight, b.bias, Act::none)), summation_error(*backend_, DType::f32));
  }
}

TEST_P(LinearOp, NoRowsAreNoWork) {
  Random random(7);
  const Problem p(random, 1, 20, 30, DType::f32, DType::f32);
  const DeviceLinear w(*backend_, p.weight, p.bias, DType::f32);
  const DeviceMatrix x(*backend_, 0, 30), out(*backend_, 0, 20);
  backend_->linear({{.out = out, .x = x, .w = w}});
  EXPECT_TRUE(out.surroundings_untouched());
}

TEST_P(LinearOp, AWeightPacksTheSameFromEveryTypeThatHoldsIt) {
  Random random(8);
  for (DType held : {DType::f16, DType::bf16}) {
    Matrix weight = random.matrix(37, 51, -1, 1, held);
    if (held == DType::f16)
      for (double& x : weight.v) x = rounded(x, DType::bf16);  // so that all three types hold it
    const Matrix x = random.matrix(5, 51, -1, 1, backend_->activation_dtype(held));
    const DeviceMatrix device_x(*backend_, x, backend_->activation_dtype(held));
    std::string bits;
    for (DType source : {DType::f32, held}) {
      const DeviceLinear w(*backend_, weight, Matrix(), held, source);
      const DeviceMatrix out(*backend_, 5, 37);
      backend_->linear({{.out = out, .x = device_x, .w = w}});
      EXPECT_TRUE(bits.empty() || bits == out.bits());
      bits = out.bits();
    }
  }
}

TEST_P(LinearOp, SomeColumnsOfAMatrixPackAsTheyDoAlone) {
  Random random(9);
  for (int64_t outputs : {3, 700})
    for (DType dtype : kDTypes)
      for (DType source : {DType::f32, dtype}) {
        SCOPED_TRACE(describe({{"outputs", outputs}, {"dtype", int(dtype)}, {"source", int(source)}}));
        constexpr int64_t kAll = 4096, kFirst = 1024, kCols = 2048;
        Matrix weight(outputs, kCols), x = random.matrix(2, kCols, -1, 1, backend_->activation_dtype(dtype));
        std::vector<char> host(size_t(outputs * kAll) * size_of(source));
        for (int64_t r = 0; r < outputs; r++)
          for (int64_t c = 0; c < kAll; c++) {
            const double value = rounded(random.uniform(-1, 1), dtype);
            store_from_f32(host.data(), source, r * kAll + c, float(value));
            if (c >= kFirst && c < kFirst + kCols) weight.at(r, c - kFirst) = value;
          }
        const DeviceMatrix device_x(*backend_, x, backend_->activation_dtype(dtype));
        const DeviceLinear alone(*backend_, weight, Matrix(), dtype, source);
        const Buffer packed(*backend_, backend_->packed_bytes(outputs, kCols, dtype));
        Linear part;
        part.weight = backend_->pack(
            packed.data(),
            {.data = host.data() + kFirst * int64_t(size_of(source)), .rows = outputs, .cols = kCols, .ld = kAll, .dtype = source}, dtype);
        const DeviceMatrix out(*backend_, 2, outputs), want(*backend_, 2, outputs);
        backend_->linear({{.out = out, .x = device_x, .w = part}});
        backend_->linear({{.out = want, .x = device_x, .w = alone}});
        EXPECT_EQ(out.bits(), want.bits());
      }
}

/// What a packed weight holds, by a product with the unit matrix.
Matrix unpacked(Backend& backend, const Tensor& packed) {
  Matrix unit(packed.cols, packed.cols), weight(packed.rows, packed.cols);
  for (int64_t k = 0; k < packed.cols; k++) unit.at(k, k) = 1;
  const DeviceMatrix x(backend, unit, backend.activation_dtype(packed.dtype)), out(backend, packed.cols, packed.rows);
  backend.linear({{.out = out, .x = x, .w = {.weight = packed, .bias = {}}}});
  const Matrix transposed = out.values();
  for (int64_t n = 0; n < packed.rows; n++)
    for (int64_t k = 0; k < packed.cols; k++) weight.at(n, k) = transposed.at(k, n);
  return weight;
}

TEST_P(LinearOp, RandomWeightsDependOnTheirPlaceInTheWholeAlone) {
  for (DType dtype : kDTypes)
    for (auto [first_row, first_col, rows, cols] :
         {std::array<int64_t, 4>{0, 0, 37, 51}, {5, 0, 16, 51}, {0, 10, 37, 17}, {36, 50, 1, 1}}) {
      const RandomFill whole{.key = 0x123456789abcdef, .range = 0.3f, .row = 51};
      RandomFill part = whole;
      part.first = first_row * 51 + first_col;
      Buffer memory(*backend_, backend_->packed_bytes(rows, cols, dtype));
      const Matrix got = unpacked(*backend_, backend_->pack_random(memory.data(), rows, cols, part, dtype));
      for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
          const int64_t i = (first_row + r) * 51 + first_col + c;
          ASSERT_EQ(got.at(r, c), rounded(random_values(whole, i / 4)[size_t(i % 4)], dtype)) << r << ' ' << c << ' ' << int(dtype);
        }
    }
}

TEST_P(LinearOp, AWeightIsRoundedToNearestEvenWhenItIsPacked) {
  Random random(9);
  const Matrix weight = random.matrix(37, 1, -3, 3);
  for (DType dtype : {DType::f16, DType::bf16}) {
    const DeviceLinear w(*backend_, weight, Matrix(), dtype);
    Matrix one(1, 1);
    one.v[0] = 1;
    const DeviceMatrix x(*backend_, one, backend_->activation_dtype(dtype)), out(*backend_, 1, 37);
    backend_->linear({{.out = out, .x = x, .w = w}});
    EXPECT_EQ(out.values().v, rounded(weight, dtype).v);
  }
}

/// Rows and shapes at which a backend may change its ways: few rows, tiles of outputs cut short, inputs of whole vectors but not whole
/// tiles.
constexpr int64_t kFewRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65};
constexpr std::array<int64_t, 3> kTwoParts[] = {{129, 72, 1000},  {300, 2056, 64}, {1, 8, 16},
                                                {1031, 520, 136}, {128, 4096, 8},  {264, 192, 320}};

TEST_P(LinearOp, AgreesWithTheReferenceForEveryFewRows) {
  Random random(15);
  for (DType dtype : kDTypes)
    for (const auto& [N, K, K2] : kTwoParts) {
      const DType x_dtype = backend_->activation_dtype(dtype);
      const Problem p(random, 65, N, K, dtype, x_dtype);
      const DeviceLinear w(*backend_, p.weight, p.bias, dtype);
      const Matrix want = reference::linear(p.x, p.weight, p.bias, Act::gelu);
      for (int64_t rows : kFewRows) {
        SCOPED_TRACE(describe({{"dtype", int(dtype)}, {"rows", rows}, {"outputs", N}, {"inputs", K}}));
        const DeviceMatrix x(*backend_, p.x.slice(0, rows), x_dtype, 8), out(*backend_, rows, N, DType::f32, 3);
        backend_->linear({{.out = out, .x = x, .w = w, .act = Act::gelu}});
        EXPECT_LE(relative_error(out.values(), want.slice(0, rows)), summation_error(*backend_, dtype));
        EXPECT_TRUE(out.surroundings_untouched());
      }
    }
}

TEST_P(LinearOp, TwoPartsOfFewRowsGoToOneOutOrToTwo) {
  Random random(16);
  for (DType dtype : kDTypes)
    for (const auto& [N, K, K2] : kTwoParts) {
      const DType x_dtype = backend_->activation_dtype(dtype);
      const Problem a(random, 65, N, K, dtype, x_dtype), b(random, 65, N, K2, dtype, x_dtype), c(random, 65, K2, K, dtype, x_dtype);
      const DeviceLinear wa(*backend_, a.weight, a.bias, dtype), wb(*backend_, b.weight, b.bias, dtype),
          wc(*backend_, c.weight, c.bias, dtype);
      const Matrix silu = reference::linear(a.x, a.weight, a.bias, Act::silu), plain = reference::linear(c.x, c.weight, c.bias, Act::none);
      Matrix total = reference::linear(a.x, a.weight, a.bias, Act::none);
      reference::add(total, reference::linear(b.x, b.weight, b.bias, Act::none), Matrix());
      for (int64_t rows : kFewRows) {
        SCOPED_TRACE(describe({{"dtype", int(dtype)}, {"rows", rows}, {"outputs", N}, {"inputs", K}, {"and", K2}}));
        const DeviceMatrix xa(*backend_, a.x.slice(0, rows), x_dtype), xb(*backend_, b.x.slice(0, rows), x_dtype, 16),
            xc(*backend_, c.x.slice(0, rows), x_dtype);
        const DeviceMatrix sum(*backend_, rows, N, DType::f32, 1), left(*backend_, rows, N), right(*backend_, rows, K2, DType::f32, 2);
        backend_->linear({{.out = sum, .x = xa, .w = wa}, {.out = sum, .x = xb, .w = wb}});
        backend_->linear({{.out = left, .x = xa, .w = wa, .act = Act::silu}, {.out = right, .x = xc, .w = wc}});
        EXPECT_LE(relative_error(sum.values(), total.slice(0, rows)), summation_error(*backend_, dtype));
        EXPECT_LE(relative_error(left.values(), silu.slice(0, rows)), summation_error(*backend_, dtype));
        EXPECT_LE(relative_error(right.values(), plain.slice(0, rows)), summation_error(*backend_, dtype));
        EXPECT_TRUE(sum.surroundings_untouched() && left.surroundings_untouched() && right.surroundings_untouched());
      }
    }
}

TEST_P(LinearOp, OutsOfTheActivationTypeMayBeOfAnyWidth) {
  Random random(17);
  for (DType dtype : kDTypes) {
    const DType a = backend_->activation_dtype(dtype);
    const double error = summation_error(*backend_, dtype) + 2 * rounding_error(a);
    for (auto [N, padding] : {std::array<int64_t, 2>{1, 0}, {7, 1}, {129, 0}, {250, 1}, {250, 2}}) {
      const Problem p(random, 65, N, 136, dtype, a), q(random, 65, 264 - N, 1000, dtype, a);
      const DeviceLinear wp(*backend_, p.weight, p.bias, dtype), wq(*backend_, q.weight, q.bias, dtype);
      const Matrix left = reference::linear(p.x, p.weight, p.bias, Act::none),
                   right = reference::linear(q.x, q.weight, q.bias, Act::gelu_tanh);
      for (int64_t rows : {1, 7, 17, 64, 65}) {
        SCOPED_TRACE(describe({{"dtype", int(dtype)}, {"rows", rows}, {"outputs", N}, {"padding", padding}}));
        const DeviceMatrix xp(*backend_, p.x.slice(0, rows), a), xq(*backend_, q.x.slice(0, rows), a, 8);
        const DeviceMatrix out(*backend_, rows, N, a, padding), out2(*backend_, rows, q.N, a, padding);
        backend_->linear({{.out = out, .x = xp, .w = wp}, {.out = out2, .x = xq, .w = wq, .act = Act::gelu_tanh}});
        EXPECT_LE(relative_error(out.values(), left.slice(0, rows)), error);
        EXPECT_LE(relative_error(out2.values(), right.slice(0, rows)), error);
        EXPECT_TRUE(out.surroundings_untouched() && out2.surroundings_untouched());
      }
    }
  }
}

TEST_P(LinearOp, ANaNInOneRowStaysInThatRow) {
  Random random(10);
  for (DType dtype : kDTypes)
    for (auto [rows, K] : {std::array<int64_t, 2>{17, 70}, {7, 72}, {17, 72}, {40, 136}}) {
      SCOPED_TRACE(describe({{"dtype", int(dtype)}, {"rows", rows}, {"inputs", K}}));
      const DType x_dtype = backend_->activation_dtype(dtype);
      Problem p(random, rows, 40, K, dtype, x_dtype);
      const DeviceLinear w(*backend_, p.weight, p.bias, dtype);
      const Matrix want = reference::linear(p.x, p.weight, p.bias, Act::none);
      p.x.at(5, 33) = NAN;
      const DeviceMatrix x(*backend_, p.x, x_dtype), out(*backend_, rows, 40);
      backend_->linear({{.out = out, .x = x, .w = w}});
      const Matrix got = out.values();
      for (double y : got.slice(5, 1).v) EXPECT_TRUE(std::isnan(y));
      EXPECT_LE(relative_error(got.slice(0, 5), want.slice(0, 5)), summation_error(*backend_, dtype));
      EXPECT_LE(relative_error(got.slice(6, rows - 6), want.slice(6, rows - 6)), summation_error(*backend_, dtype));
    }
}

TEST_P(LinearOp, OutMayBeOfTheActivationTypeAfterEveryActivation) {
  Random random(13);
  for (DType dtype : kDTypes)
    for (Act act : {Act::none, Act::gelu, Act::gelu_tanh, Act::relu, Act::silu})
      for (int64_t rows : kRowCounts) {
        const DType a = backend_->activation_dtype(dtype);
        Problem p(random, rows, 264, 72, dtype, a);
        for (int bias : {1, 0}) {
          if (!bias) p.bias = Matrix();
          const DeviceLinear w(*backend_, p.weight, p.bias, dtype);
          const DeviceMatrix x(*backend_, p.x, a), out(*backend_, rows, p.N, a, 8);
          backend_->linear({{.out = out, .x = x, .w = w, .act = act}});
          EXPECT_LE(relative_error(out.values(), reference::linear(p.x, p.weight, p.bias, act)),
                    summation_error(*backend_, dtype) + 2 * rounding_error(a))  // the sum may be rounded before the activation, too
              << describe({{"dtype", int(dtype)}, {"act", int(act)}, {"rows", rows}, {"bias", bias}});
          EXPECT_TRUE(out.surroundings_untouched());
        }
      }
}

TEST_P(LinearOp, TheSameCallGivesTheSameBits) {
  Random random(14);
  for (DType dtype : kDTypes) {
    const DType x_dtype = backend_->activation_dtype(dtype);
    const Problem a(random, 130, 264, 1024, dtype, x_dtype), b(random, 130, 264, 72, dtype, x_dtype);
    const RowBits bits(*backend_, a, b, dtype);
    for (int64_t rows : kRowCounts) EXPECT_TRUE(bits.of(0, rows) == bits.of(0, rows));
  }
}

TEST_P(LinearRowBits, ARowHasTheSameBitsAloneAndInAnyBatch) {
  Random random(11);
  for (DType dtype : kDTypes) {
    const Problem a(random, 130, 331, 600, dtype, backend_->activation_dtype(dtype)),
        b(random, 130, 331, 77, dtype, backend_->activation_dtype(dtype));
    const RowBits bits(*backend_, a, b, dtype);
    const std::string whole = bits.of(0, 130);
    for (int64_t batch : {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 64, 129}) {
      std::string joined;
      for (int64_t first = 0; first < 130; first += batch) joined += bits.of(first, std::min(batch, 130 - first));
      EXPECT_TRUE(joined == whole) << describe({{"dtype", int(dtype)}, {"batches of", batch}});
    }
  }
}

TEST_P(LinearBits, AreThoseOfOneThreadAndOfEveryInstructionSet) {
  Random random(12);
  for (DType dtype : kDTypes)
    for (auto [N, K] : {std::array<int64_t, 2>{1, 1}, {15, 300}, {16, 256}, {49, 257}, {331, 600}, {1000, 33}}) {
      const Problem a(random, 130, N, K, dtype, DType::f32), b(random, 130, N, 40, dtype, DType::f32);
      const RowBits bits(*backend_, a, b, dtype), baseline(*baseline_, a, b, dtype);
      for (int64_t rows : {1, 2, 3, 8, 16, 17, 64, 130})
        EXPECT_TRUE(bits.of(0, rows) == baseline.of(0, rows))
            << describe({{"dtype", int(dtype)}, {"rows", rows}, {"outputs", N}, {"inputs", K}});
    }
}

}  // namespace neox::test
