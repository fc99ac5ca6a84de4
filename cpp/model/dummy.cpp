// SPDX-License-Identifier: Apache-2.0
#include "model/dummy.h"

#include <cmath>

namespace neox {
namespace {

uint64_t digest(const std::string& name) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325;
  for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

}  // namespace

/// Uniform, of standard deviation 1 / sqrt(inputs) in matrices, which keeps the size of what passes through, and small elsewhere.
std::optional<RandomFill> DummyCheckpoint::random(const std::string& name, int64_t rows, int64_t cols) const {
  const float deviation = rows > 1 ? 1.f / std::sqrt(float(cols)) : 0.02f;
  return RandomFill{.key = digest(name), .range = std::sqrt(3.f) * deviation, .row = cols};
}

Tensor DummyCheckpoint::get(const std::string& name, int64_t rows, int64_t cols) {
  const RandomFill fill = *random(name, rows, cols);
  const float mean = rows == 1 && name.ends_with("norm.weight") ? 1.f : 0.f;
  values_.resize(size_t(rows * cols));
  for (size_t i = 0; i < values_.size(); i += 4) {
    const std::array<float, 4> four = random_values(fill, int64_t(i / 4));
    for (size_t j = 0; j < 4 && i + j < values_.size(); j++) values_[i + j] = mean + four[j];
  }
  return {.data = values_.data(), .rows = rows, .cols = cols, .ld = cols, .dtype = DType::f32};
}

}  // namespace neox
