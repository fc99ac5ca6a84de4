// SPDX-License-Identifier: Apache-2.0
#include "waits.h"

#include <sched.h>

#include <chrono>

namespace neox::cuda {
namespace {

constexpr const char* kRun = "run the enqueued work";
constexpr int kLooks = 64;  // of which the last also looks at the clock and the other ranks

bool ready(cudaError_t error) {
  if (error == cudaErrorNotReady) return false;
  check(error, kRun);
  return true;
}

}  // namespace

void Waits::event(cudaEvent_t event) {
  if (!group_) return check(cudaEventSynchronize(event), kRun);
  until("its GPU", [event] { return ready(cudaEventQuery(event)); });
}

void Waits::stream(cudaStream_t stream) {
  if (!group_) return check(cudaStreamSynchronize(stream), kRun);
  until("its GPU", [stream] { return ready(cudaStreamQuery(stream)); });
}

void Waits::until(const char* whom, const std::function<bool()>& done) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  try {
    for (int looks = 1; !done(); looks++) {
      if (looks % kLooks != 0) continue;
      group_->check();
      if (std::chrono::duration<double>(Clock::now() - begin).count() > group_->timeout()) group_->give_up(whom);
      sched_yield();
    }
  } catch (...) {
    for (Waiter* w : waiters_) w->abandon();
    throw;
  }
}

}  // namespace neox::cuda
