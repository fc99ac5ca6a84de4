// SPDX-License-Identifier: Apache-2.0
// Random values of a matrix that lies nowhere: each depends on its place in the whole alone, so that any device makes any part of it.
#pragma once
#include "base/philox.h"

namespace neox {

struct RandomFill {
  uint64_t key = 0;            // of the matrix
  float range = 1;             // uniform in [-range, range)
  int64_t first = 0, row = 0;  // of the part: its first element's number in the whole, and that of elements in the whole's rows
};

/// Elements 4 * block to 4 * block + 3 of the whole: the same bits everywhere, as no product here is rounded before it is added.
constexpr std::array<float, 4> random_values(const RandomFill& fill, int64_t block) {
  const uint64_t at = uint64_t(block) * 4;
  const auto words = philox({uint32_t(at), uint32_t(at >> 32), 0, 0}, uint32_t(fill.key), uint32_t(fill.key >> 32));
  std::array<float, 4> values{};
  for (size_t i = 0; i < 4; i++) values[i] = fill.range * (float(words[i]) * 0x1p-31f - 1.f);
  return values;
}

}  // namespace neox
