// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <sys/types.h>

#include <atomic>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "engine/ranks.h"
#include "engine/scheduler.h"
#include "engine/soft_prompts.h"
#include "neox/engine.h"

namespace neox {

/// Of sample i of a step, which drew or scored `id`.
TokenLogprob token_logprob(const Executor::Result& result, size_t i, int32_t id, int32_t top_n);

/// Two locks: `stepping` is held through a step, `inbox` for the moment in which submit, cancel and stats look in.
struct Engine::Impl {
  explicit Impl(const EngineConfig& config);

  // engine.cpp: what comes in
  void describe();
  void check_usable() const;
  void check_drives(const char* what) const;
  const Executor& executor() const { return ranks.executor(); }
  void check_params(const Sequence& s, const SamplingParams& params) const;
  std::shared_ptr<Sequence> make_sequence(const Prompt& prompt, const SamplingParams& params);
  void set_params(const std::shared_ptr<Sequence>& s, const Prompt& prompt, const SamplingParams& params);
  uint64_t draw_seed(uint64_t request_id) const;
  void check_unbroken() const;
  void step(std::vector<Delta>& deltas);
  bool start_next();
  [[noreturn]] void break_down(const std::exception& why);

  // prompts.cpp: what a prompt has besides tokens
  const PromptTask* task_of(const Prompt& prompt) const;
  std::vector<int32_t> read_ids(const Prompt& prompt, const PromptTask* task) const;
  void check_embeds(std::span<const float> embeds) const;
  void lay_out(Sequence& s, const Prompt& prompt) const;
  void keep_embeds(Sequence& s, const Prompt& prompt);

  // outcome.cpp: what a step's results mean for the sequences
  void read_inbox(std::vector<Delta>& deltas);
  void settle(const StepPlan& plan, std::vector<Delta>& deltas);
  void advance(const Chunk& chunk, const Executor::Result& result, size_t first, std::vector<Delta>& deltas);
  void take_scores(const Chunk& chunk, const Executor::Result& result, size_t first);
  void draw(const Chunk& chunk, const Executor::Result& result, size_t first, std::vector<Delta>& deltas);
  BeamEnd end_by_token(const Sequence& s, std::span<const int32_t> tokens) const;
  void append(Sequence& s, int32_t position, const Sample& sample, Delta& delta) const;
  void cut_text(Sequence& s, int32_t generated, size_t fresh, Delta& delta) const;

  // outcome_beams.cpp: the same for beams
  void advance_beams(std::span<const Chunk> chunks, const Executor::Result& result, size_t first, size_t candidate,
                     std::vector<Delta>& deltas);
  void continue_beams(Sequence& leader, const std::vector<Continuation>& next,
                      const std::vector<std::shared_ptr<const TokenLogprob>>& made);
  BeamEnd end_of(const Sequence& beam, const Continuation& c) const;
  void tell_hypotheses(Sequence& leader, std::vector<Delta>& deltas);

  // outcome.cpp
  void fail_request(Sequence& s, const Error& why, std::vector<Delta>& deltas);
  Error explain(const Sequence& s, int32_t position, const Sample& sample);
  void end(Sequence& s);
  void count(double running);

  EngineConfig config;  // "auto" and 0 replaced by what they came to
  EngineInfo info;
  Ranks ranks;
  Scheduler scheduler;
  StepBuffer buffer;
  std::deque<StepPlan> flying;  // planned and started, their results not looked at; oldest first
  int32_t depth;                // how many steps may be on their way
  int64_t generated = 0;        // tokens
  Vocabulary vocabulary;
  int32_t limit;  // ids from here on are banned
  const pid_t process;
  std::string failure;                                 // what broke the engine for good
  std::unordered_map<uint64_t, int32_t> open_samples;  // of requests that have not ended
  std::vector<Delta> pending;                          // of other requests, made while forward was stepping

  std::mutex stepping;       // over all of the above
  mutable std::mutex inbox;  // over all of the below
  std::vector<std::shared_ptr<Sequence>> submitted;
  std::vector<uint64_t> cancelled;
  SoftPrompts soft_prompts;
  uint64_t requests = 0;
  Stats stats;

  std::atomic<int64_t> open{0};  // requests that have not ended
  std::atomic<bool> has_pending{false}, broken{false};
};

}  // namespace neox
