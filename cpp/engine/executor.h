// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/solo.h"
#include "engine/kv_cache.h"
#include "engine/step.h"
#include "model/model.h"
#include "neox/engine.h"

namespace neox {

/// One rank: owns the backend and everything in its memory, and runs steps.
class Executor {
 public:
  /// Loads the model and completes `config` where it says "auto" or 0.
  Executor(EngineConfig& config, std::vector<std::string>& warnings);

  struct Result {  // in the order of the plan's samples
    std::vector<Sample> samples;
    int32_t top_ld = 0;  // room for each sample's most probable ids; 0 if none were asked for
    std::vector<int32_t> top_ids;
    std::vector<float> top_logprobs;
    std::vector<Candidate> candidates;  // of the plan's beams
  };
  /// Starts a step. `buffer` may change once this returns.
  void enqueue(const StepBuffer& buffer);
  /// What the step of that slot of the ring drew, once it has run; valid until the slot is used again.
  const Result& collect(int32_t slot);
  /// Runs the first `length` positions of a sequence again, on its own pages, and names the place where a number first was NaN or infinite.
  std::string locate_non_finite(const Sequence& sequence, int32_t length);

  const ModelConfig& model() const { return model_config_; }
  const Backend& backend() const { return *backend_; }
  const StepLimits& limits() const { return limits_; }
  int32_t num_blocks() const { return num_blocks_; }
  size_t weight_bytes() const { return weights_->bytes(); }
  size_t kv_cache_bytes() const { return kv_->bytes(); }

 private:
  void load(EngineConfig& config, std::vector<std::string>& warnings);
  void complete_limits(EngineConfig& config);
  void make_cache(EngineConfig& config, DType dtype);
  void make_buffers(const EngineConfig& config);
  bool on_gpu() const { return backend_->name() == "cuda"; }
  void record_steps();
  void run(const StepBuffer& buffer);
  void download(const StepBuffer& buffer);
  void beam_candidates(const StepBuffer& buffer, const Tensor& logits, int32_t first);
  int32_t sample(const StepBuffer& buffer, const Tensor& logits, int32_t first, int32_t done);

  ModelConfig model_config_;
  std::unique_ptr<Backend> backend_;  // outlives all that follows
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<Arena> arena_;
  Activations activations_;
  SoloCommunicator tensor_parallel_, pipeline_;
  std::unique_ptr<Model> model_;
  std::vector<std::unique_ptr<Replay>> replays_;  // [limits_.recorded], or none
  StepLimits limits_{};
  Buffer step_buffer_;             // the block on the device
  Buffer samples_;                 // [kSlots, samples] Sample on the device: the ring
  Buffer top_ids_, top_logprobs_;  // [kSlots, samples, max_logprobs]
  Buffer candidates_;              // [kSlots, candidates] Candidate
  int32_t max_logprobs_ = 0;
  Result results_[kSlots];
  uint64_t marks_[kSlots] = {};  // when a slot's result is whole
  int32_t num_blocks_ = 0;
};

}  // namespace neox
