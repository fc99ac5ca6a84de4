// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <deque>
#include <memory>
#include <vector>

#include "engine/block_pool.h"
#include "engine/step.h"

namespace neox {

struct SchedulerLimits {
  int32_t max_num_seqs, max_num_batched_tokens, block_size;
};

/// Who runs in a step, and on which pages. Running sequences come first, in the order of their arrival, then waiting ones while tokens and
/// pages last; long prompts come in chunks. Out of pages, the youngest running sequence is put back and computed again later.
class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, int32_t blocks) : limits_(limits), pool_(blocks) {}

  void add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }
  StepPlan schedule();
  /// Takes a sequence out and gives its pages back.
  std::unique_ptr<Sequence> remove(const Sequence* sequence);
  Sequence* find(uint64_t request_id);

  bool empty() const { return running_.empty() && waiting_.empty(); }
  const BlockPool& pool() const { return pool_; }
  int32_t blocks_for(int32_t positions) const { return (positions + limits_.block_size - 1) / limits_.block_size; }

 private:
  void preempt_youngest();
  bool make_room(Sequence& s, int32_t positions);
  static void take(StepPlan& plan, Sequence& s, int32_t count);

  const SchedulerLimits limits_;
  BlockPool pool_;
  std::vector<std::unique_ptr<Sequence>> running_;  // oldest first
  std::deque<std::unique_ptr<Sequence>> waiting_;
};

}  // namespace neox
