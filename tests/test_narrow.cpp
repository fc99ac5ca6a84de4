// SPDX-License-Identifier: Apache-2.0
// linear with weights of integers: int8, w8a8, int4, w4a8.
#include <array>

#include "base/check.h"
#include "harness.h"

namespace neox::test {
namespace {

constexpr std::array<Format, 8> kFormats = {Format{DType::i8},       Format{DType::w8a8},     Format{DType::i4, 32},
                                            Format{DType::i4, 64},   Format{DType::i4, 128},  Format{DType::w4a8, 32},
                                            Format{DType::w4a8, 64}, Format{DType::w4a8, 128}};
constexpr int64_t kRowCounts[] = {1, 2, 3, 8, 12, 13, 16, 17, 64, 130};

std::vector<BackendSpec> narrow_backends() {
  auto backends = cpu_backends();
  for (int threads : {1, 2}) backends.push_back({.device = "cpu", .isa = "avx512vnni", .threads = threads});
  return backends;
}
std::vector<BackendSpec> narrow_backends_with_a_baseline() {
  auto backends = backends_with_a_baseline();
  backends.push_back({.device = "cpu", .isa = "avx512vnni", .threads = 2});
  return backends;
}

std::string named(Format f, int64_t rows, int64_t outputs, int64_t inputs) {
  return concat(name_of(f.dtype), " in groups of ", f.group, ": rows ", rows, ", outputs ", outputs, ", inputs ", inputs);
}

/// The f32 numbers that a packed weight stands for, by a product with the unit matrix, whose rows are exact as 8-bit integers, too.
Matrix unpacked(Backend& backend, const Linear& linear) {
  const Tensor& packed = linear.weight;
  Matrix unit(packed.cols, packed.cols), weight(packed.rows, packed.cols);
  for (int64_t k = 0; k < packed.cols; k++) unit.at(k, k) = 127;
  const DeviceMatrix x(backend, unit), out(backend, packed.cols, packed.rows);
  for (int64_t first = 0; first < packed.cols; first += 512) {
    const int64_t n = std::min<int64_t>(512, packed.cols - first);
    backend.linear({{.out = out.view().from(first).first(n), .x = x.view().from(first).first(n), .w = {.weight = packed, .bias = {}}}});
  }
  const Matrix transposed = out.values();
  for (int64_t n = 0; n < packed.rows; n++)
    for (int64_t k = 0; k < packed.cols; k++) weight.at(n, k) = transposed.at(k, n) / 127;
  return weight;
}

/// A matrix of integers with scales, as a file holds it.
struct Integers {
  Format format;
  int64_t N, K;
  std::vector<uint8_t> data;
  std::vector<float> scale;
  Matrix values;

  Integers(Random& random, Format weight, int64_t n, int64_t k) : format(stored_as(weight.dtype), weight.group), N(n), K(k), values(n, k) {
    const int64_t group = format.group ? format.group : K;
    const bool four = format.dtype == DType::i4;
    data.resize(size_t(N * K * bits_of(format.dtype) / 8));
    for (int64_t r = 0; r < N; r++)
      for (int64_t c = 0; c < K; c++) {
        if (c % group == 0) scale.push_back(float(rounded(random.uniform(0.001, 0.02), DType::f16)) * (random.below(2) ? 1.f : -1.f));
        const int32_t q = four ? random.below(16) - 8 : random.below(255) - 127;
        const auto i = size_t(r * K + c);
        if (four) data[i / 2] = uint8_t(data[i / 2] | (q + 8) << i % 2 * 4);
        else data[i] = uint8_t(q);
        values.at(r, c) = double(q) * double(scale.back());
      }
  }
  Tensor view() {
    return {.data = data.data(),
            .rows = N,
            .cols = K,
            .ld = K,
            .dtype = format.dtype,
            .group = format.group,
            .scale = scale.data(),
            .scale_dtype = DType::f32};
  }
};

struct PackedIntegers {
  Buffer memory;
  Linear linear;
  PackedIntegers(Backend& backend, const Tensor& stored, Format format)
      : memory(backend, backend.packed_bytes(stored.rows, stored.cols, format)), linear{
                                                                                     .weight = backend.pack(memory.data(), stored, format),
                                                                                     .bias = {}} {}
};

Matrix seen(const Matrix& x, Format f) { return has_narrow_inputs(f.dtype) ? reference::narrow_rows(x) : x; }

}  // namespace

class NarrowLinear : public OpTest {};
INSTANTIATE_TEST_SUITE_P(On, NarrowLinear, testing::ValuesIn(narrow_backends()), name_of);
class NarrowLinearBits : public SameBitsTest {};
INSTANTIATE_TEST_SUITE_P(On, NarrowLinearBits, testing::ValuesIn(narrow_backends_with_a_baseline()), name_of);

TEST_P(NarrowLinear, AgreesWithTheReferenceForEveryShapeAndFormat) {
  Random random(1);
  for (const Format f : kFormats)
    for (const int64_t N : {1, 15, 40, 331})
      for (int64_t K : {1, 7, 255, 384, 1500}) {
        if (f.group) K = (K + f.group - 1) / f.group * f.group;
        Integers integers(random, f, N, K);
        const PackedIntegers w(*backend_, integers.view(), f);
        const Matrix x = random.matrix(130, K, -0.25, 1), want = reference::linear(seen(x, f), integers.values, Matrix(), Act::none);
        for (const int64_t rows : kRowCounts) {
          SCOPED_TRACE(named(f, rows, N, K));
          const DeviceMatrix in(*backend_, x.slice(0, rows), DType::f32, rows % 3 * 8), out(*backend_, rows, N, DType::f32, (K + rows) % 4);
          backend_->linear({{.out = out, .x = in, .w = w.linear}});
          // Outputs of integers with a mean of zero cancel, so the error is of the sum of magnitudes, and that is within 10 of the norm.
          EXPECT_LE(relative_error(out.values(), want.slice(0, rows)), 10 * summation_error(*backend_, DType::f32));
          EXPECT_TRUE(out.surroundings_untouched());
          EXPECT_TRUE(in.surroundings_untouched());
        }
      }
}

TEST_P(NarrowLinear, PartsBiasesAndActivationsAreAsOfNumbers) {
  Random random(2);
  for (const Format f : kFormats)
    for (const int64_t rows : kRowCounts) {
      SCOPED_TRACE(named(f, rows, 100, 256));
      const Matrix a = random.matrix(100, 256, -0.1, 0.2), b = random.matrix(100, 384, -0.1, 0.2), bias = random.matrix(1, 100, 0.1, 0.5);
      const DeviceLinear wa(*backend_, a, bias, f), wb(*backend_, b, Matrix(), f);
      const Matrix xa = random.matrix(rows, 256, -0.25, 1), xb = random.matrix(rows, 384, -0.25, 1);
      const DeviceMatrix da(*backend_, xa), db(*backend_, xb), sum(*backend_, rows, 100, DType::f32, 3), gelu(*backend_, rows, 100),
          other(*backend_, rows, 100);
      backend_->linear({{.out = sum, .x = da, .w = wa}, {.out = sum, .x = db, .w = wb}});
      backend_->linear({{.out = gelu, .x = da, .w = wa, .act = Act::gelu}, {.out = other, .x = db, .w = wb}});
      const Matrix va = unpacked(*backend_, wa), vb = unpacked(*backend_, wb);
      Matrix want = reference::linear(seen(xa, f), va, bias, Act::none);
      const Matrix right = reference::linear(seen(xb, f), vb, Matrix(), Act::none);
      EXPECT_LE(relative_error(other.values(), right), 2e-6);
      reference::add(want, right, Matrix());
      EXPECT_LE(relative_error(sum.values(), want), 2e-6);
      EXPECT_LE(relative_error(gelu.values(), reference::linear(seen(xa, f), va, bias, Act::gelu)), 2e-6);
      EXPECT_TRUE(sum.surroundings_untouched());
    }
}

TEST_P(NarrowLinear, EightBitsAreOffByHalfAStepAtMost) {
  Random random(3);
  const Matrix weight = random.matrix(37, 300, -1, 1);
  for (const DType t : {DType::i8, DType::w8a8}) {
    const DeviceLinear w(*backend_, weight, Matrix(), t);
    const Matrix got = unpacked(*backend_, w);
    for (int64_t r = 0; r < weight.rows; r++) {
      double most = 0;
      for (int64_t c = 0; c < weight.cols; c++) most = std::max(most, std::fabs(weight.at(r, c)));
      for (int64_t c = 0; c < weight.cols; c++) EXPECT_LE(std::fabs(got.at(r, c) - weight.at(r, c)), most / 127 * 0.50001);
    }
  }
}

TEST_P(NarrowLinear, FourBitsErrNoMoreThanRoundingToSevenParts) {
  Random random(4);
  const Matrix weight = random.matrix(37, 256, -1, 1);
  for (const DType t : {DType::i4, DType::w4a8})
    for (const int32_t group : {32, 64, 128}) {
      const DeviceLinear w(*backend_, weight, Matrix(), Format{t, group});
      const Matrix got = unpacked(*backend_, w);
      for (int64_t r = 0; r < weight.rows; r++)
        for (int64_t g = 0; g < weight.cols; g += group) {
          double most = 0, plain = 0, error = 0;
          for (int64_t c = g; c < g + group; c++) most = std::max(most, std::fabs(weight.at(r, c)));
          for (int64_t c = g; c < g + group; c++) {
            const double x = weight.at(r, c), step = rounded(most / 7, DType::f16),
                         d = x - std::clamp(std::nearbyint(x / step), -8., 7.) * step;
            plain += d * d, error += (x - got.at(r, c)) * (x - got.at(r, c));
          }
          EXPECT_LE(error, plain * 1.00001);
          EXPECT_GT(error, 0);
        }
    }
}

TEST_P(NarrowLinear, AWeightPacksTheSameFromEveryTypeThatHoldsIt) {
  Random random(5);
  for (const Format f : kFormats) {
    Matrix weight = random.matrix(37, 128, -1, 1, DType::f16);
    for (double& v : weight.v) v = rounded(v, DType::bf16);
    std::string bits;
    for (const DType source : {DType::f32, DType::f16, DType::bf16}) {
      const DeviceLinear w(*backend_, weight, Matrix(), f, source);
      const Tensor& packed = static_cast<const Linear&>(w).weight;
      const std::string now(static_cast<const char*>(packed.data), backend_->packed_bytes(37, 128, f));
      EXPECT_TRUE(bits.empty() || bits == now) << named(f, 0, 37, 128);
      bits = now;
    }
  }
}

TEST_P(NarrowLinear, WhatIsNotFiniteIsNotHidden) {
  Random random(6);
  for (const Format f : kFormats)
    for (const int64_t rows : {7, 40}) {
      SCOPED_TRACE(named(f, rows, 40, 128));
      Matrix weight = random.matrix(40, 128, -1, 1), x = random.matrix(rows, 128, -0.25, 1);
      const DeviceLinear w(*backend_, weight, Matrix(), f);
      const Matrix want = reference::linear(seen(x, f), unpacked(*backend_, w), Matrix(), Act::none);
      for (const double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
        Matrix broken = x;
        broken.at(5, 33) = bad;
        const DeviceMatrix in(*backend_, broken), out(*backend_, rows, 40);
        backend_->linear({{.out = out, .x = in, .w = w}});
        const Matrix got = out.values();
        for (const double y : got.slice(5, 1).v) EXPECT_FALSE(std::isfinite(y));
        EXPECT_LE(relative_error(got.slice(0, 5), want.slice(0, 5)), 5e-6);
        EXPECT_LE(relative_error(got.slice(6, rows - 6), want.slice(6, rows - 6)), 5e-6);
        Matrix holed = weight;
        holed.at(17, 100) = bad;
        const DeviceLinear other(*backend_, holed, Matrix(), f);
        const DeviceMatrix whole(*backend_, x), made(*backend_, rows, 40);
        backend_->linear({{.out = made, .x = whole, .w = other}});
        const Matrix y = made.values();
        for (int64_t r = 0; r < rows; r++)
          for (int64_t c = 0; c < 40; c++) EXPECT_EQ(std::isfinite(y.at(r, c)), c != 17);
      }
    }
}

TEST_P(NarrowLinear, RowsOfZerosAndOfTinyNumbersGiveZeros) {
  Random random(7);
  for (const Format f : kFormats) {
    Matrix weight = random.matrix(20, 128, -1, 1), x(3, 128);
    for (int64_t c = 0; c < 128; c++) weight.at(3, c) = 0, x.at(1, c) = 1e-38, x.at(2, c) = 1;
    const DeviceLinear w(*backend_, weight, Matrix(), f);
    const DeviceMatrix in(*backend_, x), out(*backend_, 3, 20);
    backend_->linear({{.out = out, .x = in, .w = w}});
    const Matrix got = out.values();
    for (int64_t c = 0; c < 20; c++) {
      EXPECT_EQ(got.at(0, c), 0);
      EXPECT_LE(std::fabs(got.at(1, c)), 1e-30);
    }
    EXPECT_EQ(got.at(2, 3), 0);
  }
}

TEST_P(NarrowLinear, ARowHasTheSameBitsAloneAndInAnyBatch) {
  Random random(11);
  for (const Format f : kFormats) {
    const Matrix a = random.matrix(331, 640, -1, 1), b = random.matrix(331, 128, -1, 1), bias = random.matrix(1, 331, -1, 1);
    const DeviceLinear wa(*backend_, a, bias, f), wb(*backend_, b, Matrix(), f);
    const Matrix xa = random.matrix(130, 640, -1, 1), xb = random.matrix(130, 128, -1, 1);
    const auto rows_of = [&](int64_t first, int64_t n) {
      const DeviceMatrix da(*backend_, xa.slice(first, n)), db(*backend_, xb.slice(first, n)), sum(*backend_, n, 331),
          act(*backend_, n, 331);
      backend_->linear({{.out = sum, .x = da, .w = wa}, {.out = sum, .x = db, .w = wb}});
      backend_->linear({{.out = act, .x = da, .w = wa, .act = Act::gelu}});
      return std::pair{sum.bits(), act.bits()};
    };
    const auto whole = rows_of(0, 130);
    for (const int64_t batch : {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 64, 129}) {
      std::pair<std::string, std::string> joined;
      for (int64_t first = 0; first < 130; first += batch) {
        const auto part = rows_of(first, std::min(batch, 130 - first));
        joined.first += part.first, joined.second += part.second;
      }
      EXPECT_TRUE(joined == whole) << named(f, batch, 331, 640);
    }
  }
}

TEST_P(NarrowLinearBits, AreThoseOfOneThreadAndOfEveryInstructionSet) {
  Random random(12);
  for (const Format f : kFormats)
    for (auto [N, K] : {std::array<int64_t, 2>{1, 128}, {15, 384}, {49, 256}, {331, 640}, {1000, 128}}) {
      if (!f.group) K += 3;
      const Matrix weight = random.matrix(N, K, -1, 1), bias = random.matrix(1, N, -1, 1), x = random.matrix(130, K, -1, 1);
      const DeviceLinear w(*backend_, weight, bias, f), baseline(*baseline_, weight, bias, f);
      for (const int64_t rows : {1, 2, 3, 8, 16, 17, 64, 130}) {
        std::string bits;
        for (const auto& [backend, linear] : {std::pair{backend_.get(), &w}, {baseline_.get(), &baseline}}) {
          const DeviceMatrix in(*backend, x.slice(0, rows)), out(*backend, rows, N);
          backend->linear({{.out = out, .x = in, .w = *linear, .act = Act::gelu}});
          EXPECT_TRUE(bits.empty() || bits == out.bits()) << named(f, rows, N, K);
          bits = out.bits();
        }
      }
    }
}

}  // namespace neox::test
