// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "comm/group.h"
#include "engine/kv_cache.h"
#include "engine/step.h"
#include "model/model.h"
#include "neox/engine.h"

namespace neox {

/// One rank's part of the model: owns the backend and everything in its memory, and runs steps as far as they are this rank's.
class Executor {
 public:
  /// Loads this rank's shard and completes `config` where it says "auto" or 0. All ranks of `group` do so at once.
  Executor(EngineConfig& config, HostGroup& group, std::vector<std::string>& warnings);

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
  /// Runs a step and looks at what passes between the layers: the first of them after which a number is NaN or infinite, -1 for the
  /// embedding, or kAllFinite.
  int32_t probe(const StepBuffer& buffer);
  static constexpr int32_t kAllFinite = INT32_MAX;

  const ModelConfig& model() const { return model_config_; }
  const Backend& backend() const { return *backend_; }
  const Shard& shard() const { return shard_; }
  /// Whose samples count: the first rank of the last stage, of those that all draw them alike.
  bool samples() const { return shard_.stage.last() && shard_.rank == 0; }
  std::string connections() const;  // what passes between the ranks, and how
  const StepLimits& limits() const { return limits_; }
  int32_t num_blocks() const { return num_blocks_; }
  size_t weight_bytes() const { return weights_->bytes(); }
  size_t kv_cache_bytes() const { return kv_->bytes(); }

 private:
  void load(EngineConfig& config, std::vector<std::string>& warnings);
  void read_gemm_config(EngineConfig& config, std::vector<std::string>& warnings);
  void complete_limits(EngineConfig& config);
  void connect_ranks(const EngineConfig& config);
  bool recordable() const { return on_gpu() && tensor_parallel_->recordable() && pipeline_->recordable(); }
  void make_cache(EngineConfig& config, DType dtype);
  int32_t narrow_inputs() const;
  void make_buffers(const EngineConfig& config);
  bool on_gpu() const { return backend_->name() == "cuda"; }
  void record_steps();
  void upload(const StepBuffer& buffer);
  // executor_prompts.cpp
  void load_tables(const PromptLearning& prompts);
  void load_prefixes(const PromptLearning& prompts);
  void write_prefix(const PromptTask& task, const BlockTable& table);
  void run(const StepBuffer& buffer);
  void download(const StepBuffer& buffer);
  void beam_candidates(const StepBuffer& buffer, const Tensor& logits, int32_t first);
  int32_t sample(const StepBuffer& buffer, const Tensor& logits, int32_t first, int32_t done);

  HostGroup& group_;
  ModelConfig model_config_;
  Shard shard_;
  std::unique_ptr<Backend> backend_;  // outlives all that follows
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<Arena> arena_;
  Activations activations_;
  std::unique_ptr<Communicator> tensor_parallel_, pipeline_;
  std::unique_ptr<Model> model_;
  std::vector<std::unique_ptr<Replay>> replays_;  // [limits_.recorded], or none
  StepLimits limits_{};
  Buffer step_buffer_;             // the block on the device, but for embeddings
  Tensor virtual_tokens_;          // [table_rows + embed_rows, hidden] f32, on the first stage: tables of tasks, then what the step brings
  Buffer samples_;                 // [slots, samples] Sample on the device: the ring
  Buffer top_ids_, top_logprobs_;  // [slots, samples, max_logprobs]
  Buffer candidates_;              // [slots, candidates] Candidate
  int32_t max_logprobs_ = 0;
  std::vector<Result> results_;  // [slots]
  std::vector<uint64_t> marks_;  // [slots] when a slot's result is whole
  int32_t num_blocks_ = 0;
};

}  // namespace neox
