// SPDX-License-Identifier: Apache-2.0
// How the host waits for its GPU, whose work may itself wait for other ranks.
#pragma once
#include <functional>
#include <vector>

#include "check.h"
#include "comm/group.h"

namespace neox::cuda {

/// What runs on the GPU and waits for other ranks there: it has to be told when there is nothing left to wait for.
class Waiter {
 public:
  virtual ~Waiter() = default;
  virtual void abandon() noexcept = 0;
};

/// Alone, forever. Of several ranks until one of them has failed, or the group's time is over: then all waiters are told, and Error is
/// thrown.
class Waits {
 public:
  void join(HostGroup& group) { group_ = &group; }
  void add(Waiter& waiter) { waiters_.push_back(&waiter); }
  void remove(Waiter& waiter) { std::erase(waiters_, &waiter); }

  void event(cudaEvent_t event);
  void stream(cudaStream_t stream);
  /// Until `done` says so, which looks and does not wait.
  void until(const char* whom, const std::function<bool()>& done);

 private:
  HostGroup* group_ = nullptr;
  std::vector<Waiter*> waiters_;
};

}  // namespace neox::cuda
