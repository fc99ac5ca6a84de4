// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>

#include "base/platform.h"

namespace neox {

/// How long a wait spins before it parks follows from the waits before: four times as long as those that spinning ended took. Where every
/// thread has a core that is a few microseconds; where cores are shared, a wait for a thread that is not running soon gives its core away.
class AdaptiveSpin {
 public:
  /// Spins until `ready()`; false if that has not come about soon.
  template <class Ready> bool operator()(Ready&& ready) {
    const int most = std::clamp(int(4 * usual_), kLeast, kMost);
    for (int i = 0; i < most; i++) {
      if (ready()) {
        usual_ += (float(i) - usual_) / 8;
        return true;
      }
      relax();
    }
    return false;
  }

 private:
  static constexpr int kLeast = 100, kMost = 20000;
  float usual_ = 200;
};

}  // namespace neox
