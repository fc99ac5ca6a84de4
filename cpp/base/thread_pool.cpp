// SPDX-License-Identifier: Apache-2.0
#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <exception>
#include <string>

#include "base/check.h"

namespace neox {
namespace {

void wait_while(std::atomic<int>& a, int value, AdaptiveSpin& spin) {
  if (!spin([&] { return a.load(std::memory_order_acquire) != value; })) a.wait(value, std::memory_order_acquire);
}

void release(std::atomic<int>& a) {
  a.fetch_add(1, std::memory_order_release);
  a.notify_all();
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(std::max(threads, 1)), spins_(size_t(size_)) {
  // Signals are the business of the threads that the program itself made.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::string failure;
  try {
    for (int t = 1; t < size_; t++) threads_.emplace_back([this, t] { work(t); });
  } catch (const std::exception& e) { failure = e.what(); }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failure.empty()) return;
  stop();
  fail(ErrorKind::runtime, "cannot start ", size_, " threads, but ", threads_.size() + 1, ": ", failure);
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stop_ = true;
  release(go_);
  for (auto& t : threads_) t.join();
}

void ThreadPool::work(int thread) {
  for (uint32_t seen = 0;; seen++) {  // wraps, as go_ does
    wait_while(go_, int(seen), spins_[size_t(thread)].spin);
    if (stop_) return;
    call_(fn_, thread);
    barrier(thread);
  }
}

void ThreadPool::run(Call call, void* fn) {
  if (size_ == 1) return call(fn, 0);
  call_ = call, fn_ = fn;
  release(go_);
  call(fn, 0);
  barrier(0);
}

void ThreadPool::barrier(int thread) {
  const int phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    release(phase_);
  } else {
    wait_while(phase_, phase, spins_[size_t(thread)].spin);
  }
}

int available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace neox
