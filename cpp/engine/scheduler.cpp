// SPDX-License-Identifier: Apache-2.0
#include "engine/scheduler.h"

#include <algorithm>
#include <cassert>

namespace neox {

void Scheduler::take(StepPlan& plan, Sequence& s, int32_t count) {
  const bool ends = s.computed + count == s.length();
  plan.chunks.push_back({.sequence = &s, .start = s.computed, .count = count, .samples = ends && !s.logits_out});
  plan.tokens += count;
}

void Scheduler::preempt_youngest() {
  Sequence& s = *running_.back();
  pool_.release(s.blocks);
  s.computed = 0;
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
}

/// Pages for the first `positions` of s, taken from younger sequences if need be; false if s itself had to go.
bool Scheduler::make_room(Sequence& s, int32_t positions) {
  while (!pool_.grow(s.blocks, blocks_for(positions))) {
    const bool self = running_.back().get() == &s;
    preempt_youngest();
    if (self) return false;
  }
  return true;
}

StepPlan Scheduler::schedule() {
  StepPlan plan;
  auto budget = [&] { return limits_.max_num_batched_tokens - plan.tokens; };
  for (size_t i = 0; i < running_.size() && budget() > 0; i++) {
    Sequence& s = *running_[i];
    const int32_t count = std::min(s.length() - s.computed, budget());
    if (make_room(s, s.computed + count)) take(plan, s, count);
  }
  while (!waiting_.empty() && budget() > 0 && int32_t(running_.size()) < limits_.max_num_seqs) {
    Sequence& s = *waiting_.front();
    // Room for all it has so far, or its first chunk would only push others out, or be pushed out.
    if (blocks_for(s.length()) > pool_.free_blocks()) break;
    const int32_t count = std::min(s.length(), budget());
    [[maybe_unused]] const bool grown = pool_.grow(s.blocks, blocks_for(count));
    assert(grown);
    take(plan, s, count);
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return plan;
}

std::unique_ptr<Sequence> Scheduler::remove(const Sequence* sequence) {
  const auto is_it = [&](const auto& s) { return s.get() == sequence; };
  std::unique_ptr<Sequence> out;
  if (const auto r = std::find_if(running_.begin(), running_.end(), is_it); r != running_.end()) {
    out = std::move(*r);
    running_.erase(r);
  } else if (const auto w = std::find_if(waiting_.begin(), waiting_.end(), is_it); w != waiting_.end()) {
    out = std::move(*w);
    waiting_.erase(w);
  }
  if (out) pool_.release(out->blocks);
  return out;
}

Sequence* Scheduler::find(uint64_t request_id) {
  for (const auto& s : running_)
    if (s->request_id == request_id) return s.get();
  for (const auto& s : waiting_)
    if (s->request_id == request_id) return s.get();
  return nullptr;
}

}  // namespace neox
