// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "neox/machine.h"

namespace neox {

TEST(Machine, LimitsAreNumbersForAnyThreads) {
  for (const auto limit : {read_bandwidth, triad_bandwidth, int8_peak})
    for (const int threads : {0, 1, 3}) {
      const double value = limit(threads);
      EXPECT_TRUE(std::isfinite(value) && value > 0) << value << " on " << threads << " threads";
    }
  EXPECT_FALSE(int8_instruction().empty());
}

TEST(Machine, RefusesANegativeNumberOfThreads) {
  for (const auto limit : {read_bandwidth, triad_bandwidth, int8_peak}) EXPECT_THROW(limit(-1), Error);
}

}  // namespace neox
