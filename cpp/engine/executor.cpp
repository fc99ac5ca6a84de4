// SPDX-License-Identifier: Apache-2.0
#include "engine/executor.h"

#include <algorithm>

#include "base/check.h"

namespace neox {

Executor::Executor(EngineConfig& config, std::vector<std::string>& warnings) : model_config_(read_model_config(config.model)) {
  backend_ = make_backend({.device = config.device, .isa = config.isa, .num_threads = config.num_threads});
  config.device = backend_->name();
  complete_limits(config);
  load(config, warnings);
  make_cache(config, dtype_named(config.kv_cache_dtype));
  backend_->reserve(limits_.tokens, config.max_model_len, model_config_.num_attention_heads, model_config_.vocab_size);
  arena_ = std::make_unique<Arena>(*backend_);
  activations_ = make_activations(*arena_, model_config_, backend_->activation_dtype(dtype_named(config.dtype)), limits_.tokens);
  const int32_t layers = model_config_.num_hidden_layers;
  model_ = std::make_unique<Model>(Model::Parts{.backend = *backend_,
                                                .tensor_parallel = tensor_parallel_,
                                                .pipeline = pipeline_,
                                                .config = model_config_,
                                                .weights = *weights_,
                                                .kv = kv_->layers(),
                                                .activations = activations_,
                                                .stage = {.first_layer = 0, .last_layer = layers, .layers = layers}});
  step_buffer_ = Buffer(*backend_, StepBuffer(limits_, model_config_.eos_token_ids).capacity());
  samples_ = Buffer(*backend_, size_t(limits_.seqs) * sizeof(Sample));
}

void Executor::complete_limits(EngineConfig& c) const {
  auto positive = [](const char* name, int32_t value) { require(value > 0, name, " is ", value, ", expected 1 or more"); };
  if (c.max_model_len == 0) c.max_model_len = model_config_.max_position_embeddings;
  if (c.max_num_batched_tokens == 0) c.max_num_batched_tokens = 256;  // a step stays short enough to stop
  positive("max_model_len", c.max_model_len);
  positive("max_num_seqs", c.max_num_seqs);
  positive("max_num_batched_tokens", c.max_num_batched_tokens);
  require(c.max_model_len <= model_config_.max_position_embeddings, "max_model_len is ", c.max_model_len,
          ", expected at most the model's max_position_embeddings ", model_config_.max_position_embeddings);
  require(c.block_size >= 16 && c.block_size % 16 == 0 && c.block_size <= 1024, "block_size is ", c.block_size,
          ", expected a multiple of 16 up to 1024");
  require(c.kv_cache_memory >= 0, "kv_cache_memory is ", c.kv_cache_memory, ", expected bytes, or 0 for what is sensible");
}

void Executor::load(EngineConfig& config, std::vector<std::string>& warnings) {
  const Checkpoint checkpoint(config.model);
  if (config.dtype == "auto") config.dtype = name_of(checkpoint.dtype_of("gpt_neox.layers.0.attention.query_key_value.weight"));
  const DType dtype = dtype_named(config.dtype);
  if (config.kv_cache_dtype == "auto") config.kv_cache_dtype = config.dtype;
  weights_ = std::make_unique<Weights>(*backend_, checkpoint, model_config_, dtype, warnings);
  parameters_ = checkpoint.elements();
}

void Executor::make_cache(EngineConfig& c, DType dtype) {
  const KvPages shape{
      .dtype = dtype, .heads = model_config_.num_attention_heads, .head_dim = model_config_.head_dim(), .block = c.block_size};
  const auto block_bytes = int64_t(KvCache::block_bytes(*backend_, shape, model_config_.num_hidden_layers));
  const int64_t per_seq = (c.max_model_len + c.block_size - 1) / c.block_size;
  int64_t memory = c.kv_cache_memory;
  if (memory == 0) memory = std::min(int64_t(4) << 30, backend_->memory_free() / 4);
  const int64_t blocks = std::min({memory / block_bytes, per_seq * c.max_num_seqs, int64_t(INT32_MAX) / c.block_size});
  if (blocks < 1)
    fail(ErrorKind::memory, "the KV cache may take ", memory, " bytes, but one page of ", c.block_size, " positions takes ", block_bytes,
         ": raise kv_cache_memory");
  num_blocks_ = int32_t(blocks);
  kv_ = std::make_unique<KvCache>(*backend_, shape, model_config_.num_hidden_layers, num_blocks_);
  limits_ = {.tokens = c.max_num_batched_tokens,
             .seqs = std::min(c.max_num_seqs, c.max_num_batched_tokens),
             .outs = c.max_num_batched_tokens,
             .bans = c.max_num_seqs * kMaxBansPerSeq,
             .blocks_per_seq = int32_t(per_seq),
             .block_size = c.block_size,
             .vocab = model_config_.vocab_size};
}

const std::vector<Sample>& Executor::run(const StepBuffer& buffer, int32_t limit) {
  Backend& be = *backend_;
  be.upload(step_buffer_.data(), buffer.data(), buffer.bytes());
  const auto* base = step_buffer_.data<const int32_t>();
  const Step step = buffer.step(base);
  model_->forward(step);

  const SampleRow* rows = buffer.sample_rows(buffer.data());  // on the host, to see which belong to a chunk of out rows
  auto* samples = samples_.data<Sample>();
  auto sink = buffer.sinks().begin();
  int32_t done = 0;
  for (int32_t first = 0, count; first < step.outs; first += count) {
    count = std::min(kLogitRows, step.outs - first);
    const Tensor logits = model_->logits(step, first, count);
    int32_t here = 0;
    while (done + here < buffer.samples() && rows[done + here].row < first + count) here++;
    if (here > 0)
      be.sample({.logits = logits,
                 .rows = buffer.sample_rows(base) + done,
                 .count = here,
                 .limit = limit,
                 .bans = buffer.bans(base),
                 .out = samples + done,
                 .top_n = 0,
                 .top_ids = nullptr,
                 .top_logprobs = nullptr,
                 .first = first});
    done += here;
    for (; sink != buffer.sinks().end() && sink->out_row < first + count; ++sink)
      be.download(sink->to, logits.row(sink->out_row - first), size_t(logits.cols) * sizeof(float));
  }
  result_.resize(size_t(buffer.samples()));
  be.download(result_.data(), samples, result_.size() * sizeof(Sample));
  be.synchronize();
  return result_;
}

}  // namespace neox
