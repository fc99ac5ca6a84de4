// SPDX-License-Identifier: Apache-2.0
// Beam groups: tables that share pages, and steps that have all beams of a group or none.
#include <algorithm>

#include "engine/scheduler.h"

namespace neox {

bool Scheduler::is_running(const Sequence& s) const {
  return std::any_of(running_.begin(), running_.end(), [&](const Shared& other) { return other.get() == &s; });
}

int32_t Scheduler::rows() const {
  int32_t rows = 0;
  for (const Shared& s : running_) rows += s->rows();
  return rows;
}

/// The last page of `from` becomes that of `to`, before the next step. Until then both stay as they are, whoever lets go of them.
void Scheduler::copy_page(const BlockTable& from, BlockTable& to) {
  const int32_t source = from.blocks[to.blocks.size() - 1], target = to.blocks.back();
  copies_.emplace_back(source, target);
  pool_.own(copying_, source);
  pool_.own(copying_, target);
}

void Scheduler::branch(Sequence& leader, const std::vector<int32_t>& parents) {
  auto& beams = leader.group->beams;
  const bool first = leader.table.size() > 0;
  std::vector<BlockTable> old;
  if (first) old.push_back(std::exchange(leader.table, {}));
  else
    for (const Shared& beam : beams) old.push_back(std::exchange(beam->table, {}));
  const int32_t computed = beams[0]->length() - 1, whole = computed / limits_.block_size;
  const bool partial = computed % limits_.block_size != 0;
  std::vector<int32_t> children(old.size());
  for (int32_t p : parents) children[size_t(p)]++;
  int32_t copies = 0;
  for (size_t p = 0; p < old.size(); p++) {
    if (children[p] == 0) pool_.release(old[p]);
    else if (partial) copies += children[p] - 1;
  }
  while (is_running(leader) && pool_.available() < copies) preempt_youngest();
  if (!is_running(leader)) {  // it waits already, or had to
    for (BlockTable& table : old) pool_.release(table);
    leader.computed = 0;
    beams.resize(parents.size());
    for (const Shared& beam : beams) beam->computed = 0;
    return;
  }
  std::vector<bool> taken(old.size());  // the first child of a beam goes on on its pages
  std::vector<int32_t> heirs;
  for (size_t i = 0; i < parents.size(); i++) {
    const auto p = size_t(parents[i]);
    beams[i]->computed = computed;
    if (!taken[p]) {
      taken[p] = true, heirs.push_back(int32_t(i));
      continue;
    }
    beams[i]->table = pool_.share(old[p], whole);
    if (!partial) continue;
    pool_.grow(beams[i]->table, whole + 1);
    copy_page(old[p], beams[i]->table);
  }
  for (int32_t i : heirs) beams[size_t(i)]->table = std::move(old[size_t(parents[size_t(i)])]);
  beams.resize(parents.size());  // fewer where stop strings end most continuations
}

/// Adds all beams to the plan, or none.
void Scheduler::plan_beams(StepPlan& plan, const Shared& leader) {
  auto& beams = leader->group->beams;
  if (leader->group->flying || recompute_beams(plan, leader)) return;
  const auto count = int32_t(beams.size());
  if (plan.tokens + count > limits_.tokens || int32_t(plan.chunks.size()) + count > limits_.seqs) return;
  int32_t words = plan.edit_words;
  for (const Shared& beam : beams) words += beam->processors.prepare(beam->tokens, beam->generated());
  if (words > limits_.edit_words || plan.samples + count > limits_.samples()) return;
  for (const Shared& beam : beams)
    if (!make_room(*leader, *beam, beam->length())) return;
  for (const Shared& beam : beams) take(plan, beam, 1);
}

/// After a preemption beams are computed again one after another, each on the pages that it shares with one before it. False if all are
/// there.
bool Scheduler::recompute_beams(StepPlan& plan, const Shared& leader) {
  auto& beams = leader->group->beams;
  const auto behind = std::find_if(beams.begin(), beams.end(), [](const Shared& b) { return b->to_compute() > 1; });
  if (behind == beams.end()) return false;
  Sequence& s = **behind;
  for (auto other = beams.begin(); other != behind && s.computed == 0; ++other) {
    const auto [mine, theirs] = std::mismatch(s.tokens.begin(), s.tokens.end() - 1, (*other)->tokens.begin());
    const int32_t common = int32_t(mine - s.tokens.begin()) / limits_.block_size;
    if (common <= s.table.size()) continue;
    pool_.release(s.table);
    s.table = pool_.share((*other)->table, common);
  }
  if (s.table.size() == 0) begin(s, s.prefix_length);
  else if (s.computed == 0) s.computed = std::max(s.table.size() * limits_.block_size, s.prefix_length);
  const int32_t count = std::min(s.to_compute() - 1, room(plan, s));
  if (count > 0 && int32_t(plan.chunks.size()) < limits_.seqs && make_room(*leader, s, s.computed + count)) take(plan, *behind, count);
  return true;
}

}  // namespace neox
