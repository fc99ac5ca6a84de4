// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace neox {

/// Calls fn(thread, begin, end) for every piece of [0, count), in any order, on up to `threads` threads, of which this one is number 0;
/// fewer where the system gives no more. Returns when all are done, and throws what a call threw first.
template <class Fn> void in_pieces(int64_t count, int64_t piece, int threads, Fn&& fn) {
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_guard;
  const auto work = [&](int thread) {
    try {
      for (int64_t at; (at = next.fetch_add(piece)) < count;) fn(thread, at, std::min(at + piece, count));
    } catch (...) {
      const std::lock_guard guard(error_guard);
      if (!error) error = std::current_exception();
      next = count;
    }
  };
  {
    std::vector<std::jthread> others;
    const auto most = int(std::min<int64_t>(threads, (count + piece - 1) / piece));
    try {
      for (int thread = 1; thread < most; thread++) others.emplace_back(work, thread);
    } catch (const std::system_error&) {}
    work(0);
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace neox
