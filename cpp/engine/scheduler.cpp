// SPDX-License-Identifier: Apache-2.0
#include "engine/scheduler.h"

#include <algorithm>
#include <cassert>

namespace neox {

Chunk Scheduler::chunk(Sequence& s, int32_t count) const {
  Chunk c{.sequence = &s, .start = s.computed, .count = count, .scores = 0, .draws = 0};
  const int32_t end = c.start + count;
  if (s.scores_prompt()) c.scores = std::max(0, std::min(end + 1, s.prompt_length) - s.scored);
  if (end == s.length() && !s.logits_out && s.params.max_tokens > 0) c.draws = 1 + s.forks;
  return c;
}

/// False if the step has no room for the samples of this chunk.
bool Scheduler::take(StepPlan& plan, Sequence& s, int32_t count) {
  const Chunk c = chunk(s, count);
  if (plan.samples + c.samples() > limits_.samples()) return false;
  plan.chunks.push_back(c);
  plan.tokens += count;
  plan.samples += c.samples();
  return true;
}

void Scheduler::preempt_youngest() {
  Sequence& s = *running_.back();
  pool_.release(s.table);
  s.computed = 0;
  preemptions_++;
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
}

/// Pages for the first `positions` of s, taken from younger sequences if need be; false if s itself had to go.
bool Scheduler::make_room(Sequence& s, int32_t positions) {
  while (!pool_.grow(s.table, pool_.blocks_for(positions))) {
    const bool self = running_.back().get() == &s;
    preempt_youngest();
    if (self) return false;
  }
  return true;
}

/// Takes the first waiting sequence in; false if it has to wait.
bool Scheduler::admit(StepPlan& plan) {
  Sequence& s = *waiting_.front();
  // At least one position is left to compute, and every row that tells a log-prob.
  int32_t reusable = s.length() - 1;
  if (s.scores_prompt()) reusable = std::min(reusable, s.scored - 1);
  if (!s.logits_out) s.computed = pool_.match(s.table, std::span(s.tokens).first(size_t(reusable)));
  // Room for all it has so far, or its first chunk would only push others out, or be pushed out.
  const bool room = pool_.blocks_for(s.length()) - s.table.size() <= pool_.available();
  const int32_t cached = s.computed, count = std::min(s.length() - cached, limits_.tokens - plan.tokens);
  if (!room || !take(plan, s, count)) {
    pool_.release(s.table);
    s.computed = 0;
    return false;
  }
  [[maybe_unused]] const bool grown = pool_.grow(s.table, pool_.blocks_for(cached + count));
  assert(grown);
  tokens_cached_ += cached;
  running_.push_back(std::move(waiting_.front()));
  waiting_.pop_front();
  return true;
}

StepPlan Scheduler::schedule() {
  StepPlan plan;
  for (size_t i = 0; i < running_.size() && plan.tokens < limits_.tokens; i++) {
    Sequence& s = *running_[i];
    const int32_t count = std::min(s.length() - s.computed, limits_.tokens - plan.tokens);
    if (make_room(s, s.computed + count)) take(plan, s, count);
  }
  while (!waiting_.empty() && plan.tokens < limits_.tokens && running() < limits_.seqs && admit(plan)) {}
  plan.copies = std::move(copies_);
  copies_.clear();
  return plan;
}

void Scheduler::computed(const Chunk& c, bool good) {
  Sequence& s = *c.sequence;
  s.computed += c.count;
  s.scored += c.scores;
  if (good) pool_.publish(s.table, s.tokens, s.computed);
}

void Scheduler::fork(const Sequence& parent, Owned child) {
  const int32_t whole = parent.computed / limits_.block_size;
  const bool partial = parent.computed % limits_.block_size != 0;
  const auto place = std::find_if(running_.begin(), running_.end(), [&](const Owned& s) { return s.get() == &parent; });
  if (place == running_.end() || running() >= limits_.seqs || pool_.available() < int32_t(partial)) {
    child->computed = 0;  // it computes the prompt again, but for what the prefix cache holds
    waiting_.push_front(std::move(child));
    return;
  }
  child->table = pool_.share(parent.table, whole);
  child->computed = parent.computed;
  if (partial) {
    pool_.grow(child->table, whole + 1);
    copies_.emplace_back(parent.table.blocks[size_t(whole)], child->table.blocks[size_t(whole)]);
  }
  const auto after = std::find_if(place, running_.end(), [&](const Owned& s) { return s->request_id != parent.request_id; });
  running_.insert(after, std::move(child));
}

std::unique_ptr<Sequence> Scheduler::remove(const Sequence* sequence) {
  const auto is_it = [&](const Owned& s) { return s.get() == sequence; };
  Owned out;
  if (const auto r = std::find_if(running_.begin(), running_.end(), is_it); r != running_.end()) {
    out = std::move(*r);
    running_.erase(r);
  } else if (const auto w = std::find_if(waiting_.begin(), waiting_.end(), is_it); w != waiting_.end()) {
    out = std::move(*w);
    waiting_.erase(w);
  }
  if (out) pool_.release(out->table);
  return out;
}

void Scheduler::each_of(uint64_t request_id, const std::function<void(Sequence&)>& fn) {
  std::vector<Sequence*> found;
  for (const Owned& s : running_)
    if (s->request_id == request_id) found.push_back(s.get());
  for (const Owned& s : waiting_)
    if (s->request_id == request_id) found.push_back(s.get());
  for (Sequence* s : found) fn(*s);
}

}  // namespace neox
