// SPDX-License-Identifier: Apache-2.0
#include "comm/thread_group.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>

#include "base/check.h"
#include "base/spin.h"

namespace neox {
namespace {

/// What is on its way from one rank to another in one channel.
struct Mailbox {
  std::atomic<int> count{0};  // of messages; also looked at without the lock
  std::mutex lock;            // over the rest
  std::condition_variable came;
  std::deque<std::vector<char>> messages;
  std::vector<std::vector<char>> spare;  // memory of messages that were read
  AdaptiveSpin spin;                     // of the one reader
};

struct Shared {
  explicit Shared(int n) : size(n), boxes(size_t(n) * n * kChannels) {}
  Mailbox& box(int from, int to, Channel c) { return boxes[(size_t(from) * size + to) * kChannels + size_t(c)]; }

  const int size;
  std::vector<Mailbox> boxes;
  std::atomic<bool> failed{false};
  std::mutex lock;  // over the two below
  ErrorKind kind = ErrorKind::runtime;
  std::string why;
};

class ThreadGroup final : public HostGroup {
 public:
  ThreadGroup(std::shared_ptr<Shared> shared, int rank, double timeout) : HostGroup(timeout), shared_(std::move(shared)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return shared_->size; }
  int neighbours() const override { return size(); }
  int local_rank() const override { return rank_; }
  std::string describe() const override { return "threads"; }

  void send(int to, Channel channel, const void* data, size_t bytes) override {
    Mailbox& box = shared_->box(rank_, to, channel);
    const auto* begin = static_cast<const char*>(data);
    {
      const std::lock_guard lock(box.lock);
      std::vector<char> message;
      if (!box.spare.empty()) message = std::move(box.spare.back()), box.spare.pop_back();
      message.assign(begin, begin + bytes);
      box.messages.push_back(std::move(message));
      box.count.fetch_add(1, std::memory_order_release);
    }
    box.came.notify_one();
  }

  size_t recv(int from, Channel channel, void* data, size_t capacity, Patience patience) override {
    Mailbox& box = shared_->box(from, rank_, channel);
    const auto ready = [&] { return box.count.load(std::memory_order_acquire) > 0 || shared_->failed.load(std::memory_order_acquire); };
    const bool soon = box.spin(ready);
    std::unique_lock lock(box.lock);
    if (!soon && patience == Patience::forever) box.came.wait(lock, ready);
    else if (!soon && !box.came.wait_for(lock, std::chrono::duration<double>(timeout()), ready)) give_up(concat("rank ", from));
    if (box.messages.empty()) report();
    std::vector<char> message = std::move(box.messages.front());
    if (message.size() > capacity) refuse(from, message.size(), capacity);
    box.messages.pop_front();
    box.count.fetch_sub(1, std::memory_order_relaxed);
    const size_t bytes = message.size();
    if (bytes > 0) std::memcpy(data, message.data(), bytes);
    box.spare.push_back(std::move(message));
    return bytes;
  }

  void check() override {
    if (shared_->failed.load(std::memory_order_acquire)) report();
  }

  void abort(ErrorKind kind, const std::string& why) noexcept override {
    {
      const std::lock_guard lock(shared_->lock);
      if (shared_->failed) return;  // the first reason is the reason
      shared_->kind = kind;
      shared_->why = concat("rank ", rank_, " failed in ", place(), ": ", why);
      shared_->failed = true;
    }
    for (Mailbox& box : shared_->boxes) {
      const std::lock_guard lock(box.lock);  // whoever looked before now waits, and is woken
      box.came.notify_all();
    }
  }

 private:
  [[noreturn]] void report() const {
    const std::lock_guard lock(shared_->lock);
    throw Error(shared_->kind, concat(shared_->why, "; rank ", rank_, " was in ", place()));
  }

  const std::shared_ptr<Shared> shared_;
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<HostGroup>> make_thread_groups(int size, double timeout) {
  const auto shared = std::make_shared<Shared>(size);
  std::vector<std::unique_ptr<HostGroup>> groups;
  for (int rank = 0; rank < size; rank++) groups.push_back(std::make_unique<ThreadGroup>(shared, rank, timeout));
  return groups;
}

}  // namespace neox
