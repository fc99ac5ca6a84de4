// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/group.h"
#include "engine/executor.h"

namespace neox {

/// One rank: its executor, and its place among the others.
class Rank {
 public:
  Rank(EngineConfig& config, HostGroup& group, std::vector<std::string>& warnings);

  /// Runs a step, as all ranks do. Who samples for the others then sends rank 0 what was drawn.
  void run(const StepBuffer& buffer);
  /// Runs rank 0's steps until it lets go, and returns what it says then.
  std::string follow();
  bool samples() const { return executor_.samples(); }

  Executor& executor() { return executor_; }
  const Executor& executor() const { return executor_; }

 private:
  void report(const StepBuffer& buffer);

  HostGroup& group_;
  Executor executor_;
  int64_t steps_ = 0;
  std::optional<StepBuffer> told_;  // rank 0's steps, on the other ranks; of so many bytes that a new one a call would take milliseconds
  std::vector<float> logits_;       // that a caller of rank 0 asked for, on their way
};

/// All ranks of an engine as one of them sees them: its own, and the others, which are threads started here, or other processes.
class Ranks {
 public:
  Ranks(EngineConfig& config, std::vector<std::string>& warnings);
  ~Ranks();

  // On rank 0. The step's samples go to the buffer's slot of the ring, and are valid until the slot is used again.
  void enqueue(StepBuffer& buffer);
  const Executor::Result& collect(int32_t slot);
  /// Runs the first `length` positions of a sequence again, on its own pages, and names the place where a number first was NaN or infinite.
  std::string locate_non_finite(const Sequence& sequence, int32_t length);
  void release(const std::string& word);

  void meet(const std::string& call);
  std::string follow() { return own_->follow(); }
  /// This rank cannot go on, and nor can the others then.
  void fail(const std::exception& why) noexcept;

  const Executor& executor() const { return own_->executor(); }
  const HostGroup& group() const { return *group_; }

 private:
  /// What the sampling rank is to send of a step, where that is not this one.
  struct Due {
    size_t samples = 0, top = 0, candidates = 0;
    std::vector<StepBuffer::Sink> sinks;
  };
  void start_threads(const EngineConfig& config, std::vector<std::unique_ptr<HostGroup>> groups);
  void tell(const StepBuffer& buffer);
  void receive(int from, Channel channel, void* data, size_t bytes);

  std::unique_ptr<HostGroup> group_;
  std::vector<std::thread> threads_;  // ranks 1 and up, if they are threads
  std::unique_ptr<Rank> own_;
  std::vector<Due> due_;                   // [slots]
  std::vector<Executor::Result> results_;  // [slots] that were sent
  int32_t max_logprobs_ = 0;
  std::string call_;  // under way
};

}  // namespace neox
