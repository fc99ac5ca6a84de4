// SPDX-License-Identifier: Apache-2.0
#include "engine/scheduler.h"

#include <algorithm>
#include <cassert>

namespace neox {

Scheduler::~Scheduler() {
  while (!waiting_.empty()) remove(waiting_.back().get());
  while (!running_.empty()) remove(running_.back().get());
}

Chunk Scheduler::chunk(const Shared& sequence, int32_t count) const {
  const Sequence& s = *sequence;
  Chunk c{.sequence = sequence,
          .preemptions = s.preemptions,
          .start = s.computed,
          .count = count,
          .first_score = s.scored,
          .scores = 0,
          .draws = 0};
  const int32_t end = c.start + count;
  if (s.scores_prompt()) {
    c.score_end = std::max(s.scored, std::min(end + 1, s.prompt_length));
    c.scores =
        int32_t(std::count_if(s.tokens.begin() + s.scored, s.tokens.begin() + c.score_end, [](int32_t t) { return !is_virtual(t); }));
  }
  if (end < s.length() || s.logits_out || s.params.max_tokens == 0) return c;
  if (s.group) c.candidates = s.group->search.candidates_per_beam();
  else c.draws = 1 + (s.generated() == 0 ? s.forks : 0);
  return c;
}

int32_t Scheduler::pinned_pages() const {
  int32_t pages = 0;
  for (const BlockTable& table : pinned_) pages += table.size();
  return pages;
}

/// How many positions of s a step has room for yet, by their number and that of the embeddings they bring.
int32_t Scheduler::room(const StepPlan& plan, const Sequence& s) const {
  const int32_t count = std::min(s.to_compute(), limits_.tokens - plan.tokens), rows = limits_.embed_rows - plan.embed_rows;
  return s.soft_rows(s.computed, count) <= rows ? count : std::max(0, s.soft_begin - s.computed) + rows;
}

/// Adds a chunk to the plan; false if the step has no room for its samples or their edits.
bool Scheduler::take(StepPlan& plan, const Shared& s, int32_t count) const {
  Chunk c = chunk(s, count);
  if (c.draws + c.candidates > 0) c.edit_words = s->processors.prepare(s->tokens, s->generated());
  if (plan.samples + c.samples() > limits_.samples() || plan.edit_words + c.edit_words > limits_.edit_words) return false;
  plan.embed_rows += s->soft_rows(s->computed, count);
  s->computed += count;
  s->scored = std::max(s->scored, c.score_end);
  if (c.candidates > 0) s->group->flying = true;
  if (c.draws > 0) s->tokens.push_back(-1 - (plan.slot * limits_.samples() + plan.samples + c.scores));
  plan.tokens += count;
  plan.samples += c.samples();
  plan.edit_words += c.edit_words;
  plan.chunks.push_back(std::move(c));
  return true;
}

/// Gives up all pages of a sequence, and of its beams.
void Scheduler::release(Sequence& s) {
  pool_.release(s.table);
  s.computed = 0;
  if (!s.group) return;
  for (const Shared& beam : s.group->beams) {
    pool_.release(beam->table);
    beam->computed = 0;
    beam->preemptions++;
  }
}

void Scheduler::preempt_youngest() {
  Sequence& s = *running_.back();
  release(s);
  s.preemptions++;
  preemptions_++;
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
}

/// Gives s, which has no pages, what is there of its first `most` positions: its task's prefix, and what the prefix cache holds.
void Scheduler::begin(Sequence& s, int32_t most) {
  s.table = pool_.begin(s.prefix < 0 ? BlockTable{} : pinned_[size_t(s.prefix)], s.prefix_length, s.root);
  s.computed = std::max(s.prefix_length, pool_.match(s.table, std::span(s.tokens).first(size_t(most))));
}

/// Pages for the first `positions` of s; one in which its prefix ends is a copy of its own, made by the step that is planned. False, and no
/// change, if too few are available.
bool Scheduler::grow(Sequence& s, int32_t positions) {
  const bool partial = s.computed > s.table.size() * limits_.block_size;  // so far it stands for the pinned page
  if (!pool_.grow(s.table, pool_.blocks_for(positions))) return false;
  if (!partial) return true;
  const auto page = size_t(s.computed / limits_.block_size);
  copies_.emplace_back(pinned_[size_t(s.prefix)].blocks[page], s.table.blocks[page]);
  return true;
}

/// The same, with pages taken from younger sequences than the holder, s or its leader, if need be; false if that itself had to go.
bool Scheduler::make_room(const Sequence& holder, Sequence& s, int32_t positions) {
  while (!grow(s, positions)) {
    const bool self = running_.back().get() == &holder;
    preempt_youngest();
    if (self) return false;
  }
  return true;
}

/// Takes the first waiting sequence in; false if it has to wait.
bool Scheduler::admit(StepPlan& plan) {
  const Shared sequence = waiting_.front();
  Sequence& s = *sequence;
  if (!s.knows_all() || (s.group && s.group->flying)) return false;  // preempted while its last token is being drawn
  if (rows() + s.rows() > limits_.seqs) return false;
  if (s.group && !s.group->beams.empty()) {  // its beams are computed again one by one, from the next step on
    if (pool_.blocks_for(s.group->beams[0]->length()) - s.prefix_length / limits_.block_size > pool_.available()) return false;
    running_.push_back(sequence);
    waiting_.pop_front();
    return true;
  }
  // At least one position is left to compute, and every row that tells a log-prob.
  int32_t reusable = s.length() - 1;
  if (s.scores_prompt()) reusable = std::min(reusable, s.scored - 1);
  if (!s.logits_out) begin(s, reusable);
  // Room for all it has so far, or its first chunk would only push others out, or be pushed out.
  const int32_t cached = s.computed, count = room(plan, s);
  const bool fits = count > 0 && pool_.blocks_for(s.length()) - s.table.size() <= pool_.available();
  if (!fits || !grow(s, cached + count) || !take(plan, sequence, count)) {
    pool_.release(s.table);
    s.computed = 0;
    return false;
  }
  tokens_cached_ += cached - s.prefix_length;
  running_.push_back(sequence);
  waiting_.pop_front();
  return true;
}

/// With stages a sequence runs only once its last token is known.
bool Scheduler::needs_tokens() const {
  return stages_ == 1 && std::any_of(running_.begin(), running_.end(), [](const Shared& s) { return s->needs_tokens(); });
}

/// Sequences in one step, so that every stage has some.
int32_t Scheduler::most_chunks() const { return (std::min(running() + waiting(), limits_.seqs) + stages_ - 1) / stages_; }

StepPlan Scheduler::schedule(int32_t slot) {
  StepPlan plan;
  plan.slot = slot;
  pool_.release(copying_);
  const auto most = size_t(most_chunks());
  const auto room = [&] { return plan.tokens < limits_.tokens && plan.chunks.size() < most; };
  for (size_t i = 0; i < running_.size() && room(); i++) {
    const Shared s = running_[i];
    if (s->group && !s->group->beams.empty()) {
      plan_beams(plan, s);
      continue;
    }
    if (stages_ > 1 && !s->knows_all()) continue;
    const int32_t count = this->room(plan, *s);
    if (count > 0 && make_room(*s, *s, s->computed + count)) take(plan, s, count);
  }
  while (!waiting_.empty() && room() && admit(plan)) {}
  plan.copies = std::move(copies_);
  copies_.clear();
  return plan;
}

void Scheduler::publish(const Chunk& c) {
  Sequence& s = *c.sequence;
  if (c.preemptions == s.preemptions && s.table.size() > 0) pool_.publish(s.table, s.tokens, c.start + c.count);
}

void Scheduler::fork(const Sequence& parent, Shared child) {
  const int32_t whole = parent.prompt_length / limits_.block_size;
  const bool partial = parent.prompt_length % limits_.block_size != 0;
  const auto place = std::find_if(running_.begin(), running_.end(), [&](const Shared& s) { return s.get() == &parent; });
  if (place == running_.end() || rows() >= limits_.seqs || pool_.available() < int32_t(partial)) {
    child->computed = 0;  // it computes the prompt again, but for what the prefix cache holds
    waiting_.push_front(std::move(child));
    return;
  }
  child->table = pool_.share(parent.table, whole);
  child->computed = parent.prompt_length;
  if (partial) {
    pool_.grow(child->table, whole + 1);
    copy_page(parent.table, child->table);
  }
  const auto after = std::find_if(place, running_.end(), [&](const Shared& s) { return s->request_id != parent.request_id; });
  running_.insert(after, std::move(child));
}

void Scheduler::remove(const Sequence* sequence) {
  const auto is_it = [&](const Shared& s) { return s.get() == sequence; };
  Shared out;
  if (const auto r = std::find_if(running_.begin(), running_.end(), is_it); r != running_.end()) {
    out = *r;
    running_.erase(r);
  } else if (const auto w = std::find_if(waiting_.begin(), waiting_.end(), is_it); w != waiting_.end()) {
    out = *w;
    waiting_.erase(w);
  }
  if (!out) return;
  release(*out);
  if (out->group) out->group->beams.clear();  // which hold the group that holds them
}

void Scheduler::each_of(uint64_t request_id, const std::function<void(Sequence&)>& fn) {
  std::vector<Shared> found;
  const auto belongs = [&](const Shared& s) { return s->request_id == request_id; };
  std::copy_if(running_.begin(), running_.end(), std::back_inserter(found), belongs);
  std::copy_if(waiting_.begin(), waiting_.end(), std::back_inserter(found), belongs);
  for (const Shared& s : found) fn(*s);
}

}  // namespace neox
