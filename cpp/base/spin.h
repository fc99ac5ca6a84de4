// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <thread>

#include "base/platform.h"

namespace neox {

/// How long a wait spins follows from the waits before: four times as long as those that spinning ended took. Where every thread has a core
/// that is a few microseconds. Then it offers its core to whoever wants it some hundred times: on a core of its own that is more spinning,
/// on a shared one the thread that it waits for runs. Only then the caller is to park: to wake it again takes tens of microseconds.
class AdaptiveSpin {
 public:
  /// Until `ready()`; false if that has not come about soon.
  template <class Ready> bool operator()(Ready&& ready) {
    const int most = std::clamp(int(4 * usual_), kLeast, kMost);
    for (int i = 0; i < most; i++) {
      if (ready()) {
        usual_ += (float(i) - usual_) / 8;
        return true;
      }
      relax();
    }
    for (int i = 0; i < kYields; i++) {
      if (ready()) return true;
      std::this_thread::yield();
    }
    return false;
  }

 private:
  static constexpr int kLeast = 100, kMost = 20000, kYields = 400;
  float usual_ = 200;
};

}  // namespace neox
