// SPDX-License-Identifier: Apache-2.0
// Backends under test, matrices in their memory, and how two results are compared.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/buffer.h"
#include "reference.h"

namespace neox::test {

constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};

// --- backends ---

struct BackendSpec {
  std::string device, isa;
  int threads;
  std::string attention = "fused", unfused_scores = "float32";
  bool deterministic = false;
};
std::ostream& operator<<(std::ostream& out, const BackendSpec& spec);
std::string name_of(const testing::TestParamInfo<BackendSpec>& info);

/// Ready for ops of up to 1024 tokens; null where this machine or this build lacks it.
std::unique_ptr<Backend> open(const BackendSpec& spec);

/// A test over each backend; skipped where the machine lacks it.
class OpTest : public testing::TestWithParam<BackendSpec> {
 protected:
  void SetUp() override;
  std::unique_ptr<Backend> backend_;
};
/// The same for backends whose results must be the bits of another one's.
class SameBitsTest : public OpTest {
 protected:
  void SetUp() override;
  std::unique_ptr<Backend> baseline_;
};
std::vector<BackendSpec> cpu_backends();
std::vector<BackendSpec> exact_backends();
std::vector<BackendSpec> all_backends();
std::vector<BackendSpec> backends_with_a_baseline();
BackendSpec baseline_of(const BackendSpec& spec);

#define NEOX_OP_TEST(Suite)       \
  class Suite : public OpTest {}; \
  INSTANTIATE_TEST_SUITE_P(On, Suite, testing::ValuesIn(all_backends()), name_of)
/// For what the CPU promises, and CUDA if it is asked to be deterministic: one order of summation, whatever surrounds a row.
#define NEOX_EXACT_OP_TEST(Suite) \
  class Suite : public OpTest {}; \
  INSTANTIATE_TEST_SUITE_P(On, Suite, testing::ValuesIn(exact_backends()), name_of)
#define NEOX_SAME_BITS_TEST(Suite)      \
  class Suite : public SameBitsTest {}; \
  INSTANTIATE_TEST_SUITE_P(On, Suite, testing::ValuesIn(backends_with_a_baseline()), name_of)

// --- values ---

class Random {
 public:
  explicit Random(uint32_t seed) : bits_(seed) {}
  double uniform(double low, double high) { return low + (high - low) * (double(bits_()) / 4294967296.0); }
  int32_t below(int32_t n) { return int32_t(bits_() % uint32_t(n)); }
  Matrix matrix(int64_t rows, int64_t cols, double low, double high, DType t = DType::f32);
  template <class T> void shuffle(std::vector<T>& v) {
    for (size_t i = v.size(); i > 1; i--) std::swap(v[i - 1], v[size_t(below(int32_t(i)))]);
  }

 private:
  std::mt19937 bits_;  // the standard fixes its numbers, unlike those of its distributions
};

// --- memory ---

/// A matrix in a backend's memory. The view is surrounded by `pad` more columns and two more rows full of NaN, which no op may touch.
class DeviceMatrix {
 public:
  DeviceMatrix(Backend& backend, int64_t rows, int64_t cols, DType dtype = DType::f32, int64_t pad = 0);  // NaN throughout
  DeviceMatrix(Backend& backend, const Matrix& values, DType dtype = DType::f32, int64_t pad = 0);

  Tensor view() const { return view_; }
  operator Tensor() const { return view_; }
  Matrix values() const;
  std::string bits() const;  // of the view, row after row
  bool surroundings_untouched() const;

 private:
  std::string download() const;
  Backend& backend_;
  Buffer memory_;
  Tensor view_;
};

/// A list in a backend's memory.
template <class T> class DeviceList {
 public:
  DeviceList(Backend& backend, const std::vector<T>& values)
      : backend_(backend), memory_(backend, (values.size() + 1) * sizeof(T)), size_(values.size()) {
    if (size_) backend.upload(memory_.data(), values.data(), size_ * sizeof(T));
    backend.synchronize();
  }
  T* data() const { return memory_.data<T>(); }
  std::vector<T> values() const {
    std::vector<T> v(size_);
    if (size_) backend_.download(v.data(), memory_.data(), size_ * sizeof(T));
    backend_.synchronize();
    return v;
  }

 private:
  Backend& backend_;
  Buffer memory_;
  size_t size_;
};

/// A packed weight and its bias, in the activation type, which may be empty.
class DeviceLinear {
 public:
  DeviceLinear(Backend& backend, const Matrix& weight, const Matrix& bias, Format format, DType source = DType::f32);
  operator const Linear&() const { return linear_; }

 private:
  Buffer packed_;
  DeviceMatrix bias_;
  Linear linear_;
};

// --- comparison ---

/// What rounding to a type costs at most, of values of that type; nothing for f32.
constexpr double rounding_error(DType t) { return t == DType::f32 ? 0 : t == DType::f16 ? 0x1p-11 : 0x1p-8; }
/// What the backend's order of summation may cost in a linear whose weight has that type.
double summation_error(const Backend& backend, DType weight);

/// ||a - b|| / ||b||
double relative_error(const Matrix& a, const Matrix& b);
std::string describe(std::initializer_list<std::pair<const char*, int64_t>> numbers);

}  // namespace neox::test
