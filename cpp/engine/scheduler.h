// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "engine/block_pool.h"
#include "engine/step.h"

namespace neox {

/// Who runs in a step, and on which pages. Running sequences come first, in the order of their arrival, then waiting ones while tokens and
/// pages last; long prompts come in chunks. Out of pages, the youngest running sequence is put back and computed again later.
class Scheduler {
 public:
  Scheduler(const StepLimits& limits, int32_t blocks, bool prefix_caching)
      : limits_(limits), pool_(blocks, limits.block_size, prefix_caching) {}

  void add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }
  StepPlan schedule();
  /// What a chunk has computed is known from here on. `good`: its logits came back finite, so its pages may be found by others.
  void computed(const Chunk& chunk, bool good);
  /// A child that goes on from where its parent stands, on the parent's pages.
  void fork(const Sequence& parent, std::unique_ptr<Sequence> child);
  /// Takes a sequence out and gives its pages back.
  std::unique_ptr<Sequence> remove(const Sequence* sequence);
  void each_of(uint64_t request_id, const std::function<void(Sequence&)>& fn);  // fn may remove it

  int32_t running() const { return int32_t(running_.size()); }
  int32_t waiting() const { return int32_t(waiting_.size()); }
  int64_t preemptions() const { return preemptions_; }
  int64_t tokens_cached() const { return tokens_cached_; }
  const BlockPool& pool() const { return pool_; }

 private:
  using Owned = std::unique_ptr<Sequence>;
  void preempt_youngest();
  bool make_room(Sequence& s, int32_t positions);
  bool admit(StepPlan& plan);
  bool take(StepPlan& plan, Sequence& s, int32_t count);
  Chunk chunk(Sequence& s, int32_t count) const;

  const StepLimits limits_;
  BlockPool pool_;
  std::vector<Owned> running_;  // oldest first
  std::deque<Owned> waiting_;
  std::vector<std::pair<int32_t, int32_t>> copies_;  // of pages, due with the next step
  int64_t preemptions_ = 0, tokens_cached_ = 0;
};

}  // namespace neox
