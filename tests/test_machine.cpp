// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "neox/machine.h"

namespace neox {

TEST(Machine, ReadBandwidthIsANumberForAnyThreads) {
  for (const int threads : {0, 1, 3}) {
    const double bandwidth = read_bandwidth(threads);
    EXPECT_TRUE(std::isfinite(bandwidth) && bandwidth > 0) << bandwidth << " bytes/s on " << threads << " threads";
  }
}

TEST(Machine, RefusesANegativeNumberOfThreads) { EXPECT_THROW(read_bandwidth(-1), Error); }

}  // namespace neox
