// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/spin.h"

namespace neox {

/// A fixed set of threads that spin for a moment, then yield, then park. Work is cut by position and never stolen, so who computes what is
/// fixed.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // throws Error(runtime) where the system does not give so many
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int size() const { return size_; }
  /// Calls fn(thread) on every thread, this one included as thread 0, and returns when all are done. fn must not throw.
  template <class Fn> void run(Fn&& fn) {
    auto call = [](void* f, int thread) { (*static_cast<std::remove_reference_t<Fn>*>(f))(thread); };
    run(call, &fn);
  }
  /// Cuts [0, count) into one contiguous range for each thread and calls fn(begin, end) where it is not empty.
  template <class Fn> void split(int64_t count, Fn&& fn) {
    if (count <= 1 || size_ == 1) {
      if (count > 0) fn(int64_t(0), count);
      return;
    }
    run([&](int thread) {
      const int64_t begin = count * thread / size_, end = count * (thread + 1) / size_;
      if (begin < end) fn(begin, end);
    });
  }
  /// Inside run only: waits until every thread has come here.
  void barrier(int thread);

 private:
  using Call = void (*)(void*, int);
  void run(Call call, void* fn);
  void work(int thread);
  void stop();

  struct alignas(64) Spin {
    AdaptiveSpin spin;
  };
  const int size_;
  bool stop_ = false;
  Call call_ = nullptr;
  void* fn_ = nullptr;
  alignas(64) std::atomic<int> go_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
  std::vector<Spin> spins_;  // [threads]
  std::vector<std::thread> threads_;
};

int available_cores();  // that this process may run on

}  // namespace neox
