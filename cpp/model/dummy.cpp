// SPDX-License-Identifier: Apache-2.0
#include "model/dummy.h"

#include <cmath>

#include "base/philox.h"

namespace neox {
namespace {

uint64_t digest(const std::string& name) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325;
  for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

}  // namespace

Tensor DummyCheckpoint::get(const std::string& name, int64_t rows, int64_t cols) {
  const bool matrix = rows > 1, gamma = !matrix && name.ends_with("norm.weight");
  // Uniform, of standard deviation 1 / sqrt(inputs) in matrices, which keeps the size of what passes through, and small elsewhere.
  const float range = std::sqrt(3.f) * (matrix ? 1.f / std::sqrt(float(cols)) : 0.02f), mean = gamma ? 1.f : 0.f;
  const uint64_t key = digest(name);
  values_.resize(size_t(rows * cols));
  for (size_t i = 0; i < values_.size(); i += 4) {
    const auto words = philox({uint32_t(i), uint32_t(uint64_t(i) >> 32), 0, 0}, uint32_t(key), uint32_t(key >> 32));
    for (size_t j = 0; j < 4 && i + j < values_.size(); j++) values_[i + j] = mean + range * (float(words[j]) * 0x1p-31f - 1.f);
  }
  return {.data = values_.data(), .rows = rows, .cols = cols, .ld = cols, .dtype = DType::f32};
}

}  // namespace neox
