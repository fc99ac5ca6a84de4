// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/step.h"

namespace neox {

/// Who runs in a step, and on which pages. Running sequences come first, in the order of their arrival, then waiting ones while tokens and
/// pages last; long prompts come in chunks. Out of pages, the youngest running sequence is put back and computed again later.
class Scheduler {
 public:
  /// stages: of a pipeline, each of which works on a step of its own; they get about as many sequences each, and none whose last token is
  /// still being drawn. prefixes: positions of the tasks' prefixes, whose pages are pinned, the first ones of the pool.
  Scheduler(const StepLimits& limits, int32_t blocks, bool prefix_caching, int32_t stages = 1, std::span<const int32_t> prefixes = {})
      : limits_(limits), stages_(stages), pool_(blocks, limits.block_size, prefix_caching), pinned_(pool_.pin(prefixes)) {}
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;

  void add(std::shared_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }
  /// Plans a step that will use `slot` of the ring of samples. Steps may be planned ahead: a token that is being drawn is then known by its
  /// place in that ring.
  StepPlan schedule(int32_t slot);
  /// Whether the next step has to know what the last one drew.
  bool needs_tokens() const;
  /// A chunk has run and its logits were finite: whole pages up to its end may be found by others.
  void publish(const Chunk& chunk);
  /// A child that goes on where its parent's prompt ends, on the parent's pages.
  void fork(const Sequence& parent, std::shared_ptr<Sequence> child);
  /// Gives the beams of a group, whose tokens have been set, the pages of the beams before them that they continue: parents[i] of those, or
  /// of the one that computed the prompt. Younger sequences make room, if need be.
  void branch(Sequence& leader, const std::vector<int32_t>& parents);
  /// Takes a sequence out and gives its pages back.
  void remove(const Sequence* sequence);
  void each_of(uint64_t request_id, const std::function<void(Sequence&)>& fn);  // fn may remove it

  int32_t running() const { return int32_t(running_.size()); }
  int32_t waiting() const { return int32_t(waiting_.size()); }
  int64_t preemptions() const { return preemptions_; }
  int64_t tokens_cached() const { return tokens_cached_; }
  const BlockPool& pool() const { return pool_; }
  int32_t pinned_pages() const;

 private:
  using Shared = std::shared_ptr<Sequence>;  // with the plans that are on their way
  void release(Sequence& s);
  void preempt_youngest();
  void begin(Sequence& s, int32_t most);
  bool grow(Sequence& s, int32_t positions);
  bool make_room(const Sequence& holder, Sequence& s, int32_t positions);
  int32_t room(const StepPlan& plan, const Sequence& s) const;
  void copy_page(const BlockTable& from, BlockTable& to);
  void plan_beams(StepPlan& plan, const Shared& leader);
  bool recompute_beams(StepPlan& plan, const Shared& leader);
  bool is_running(const Sequence& s) const;
  int32_t rows() const;
  bool admit(StepPlan& plan);
  bool take(StepPlan& plan, const Shared& s, int32_t count) const;
  int32_t most_chunks() const;
  Chunk chunk(const Shared& s, int32_t count) const;

  const StepLimits limits_;
  const int32_t stages_;
  BlockPool pool_;
  std::vector<BlockTable> pinned_;  // [prefixes]
  std::vector<Shared> running_;     // oldest first
  std::deque<Shared> waiting_;
  std::vector<std::pair<int32_t, int32_t>> copies_;  // of pages, due with the next step
  BlockTable copying_;                               // these pages, that nobody else may have until then
  int64_t preemptions_ = 0, tokens_cached_ = 0;
};

}  // namespace neox
