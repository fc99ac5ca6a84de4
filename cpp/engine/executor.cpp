// SPDX-License-Identifier: Apache-2.0
#include "engine/executor.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/thread_pool.h"
#include "comm/solo.h"
#include "engine/devices.h"
#include "model/prompts.h"

namespace neox {
namespace {

// A StepBuffer is indexed with int32.
constexpr int32_t kMaxTokens = 1 << 20;
constexpr int64_t kMaxTablePages = 1 << 28;
constexpr int32_t kEmbedBytes = 16 << 20;  // of embeddings that requests brought, in one step: more of them wait for the next

}  // namespace

Executor::Executor(EngineConfig& config, HostGroup& group, std::vector<std::string>& warnings)
    : group_(group), model_config_(find_model_config(config.model, config.model_config)) {
  shard_ = make_shard(model_config_, group.rank(), config.tensor_parallel_size, config.pipeline_parallel_size);
  if (config.num_threads == 0) config.num_threads = group.size() > 1 ? 1 : available_cores();
  const int32_t gpu = choose_gpu(config, group);
  backend_ = make_backend({.device = config.device,
                           .isa = config.isa,
                           .num_threads = config.num_threads,
                           .gpu = gpu,
                           .custom_all_reduce = config.custom_all_reduce,
                           .programmatic_launch = config.programmatic_launch,
                           .attention = config.attention,
                           .unfused_scores = config.unfused_scores,
                           .deterministic = config.deterministic});
  config.device = backend_->name();
  const bool unfused = config.attention == "unfused";
  require(!unfused || !config.deterministic || !on_gpu(),
          "attention is 'unfused' with deterministic, expected 'fused': cuBLASLt sums by length");
  if (unfused && !on_gpu()) warnings.push_back("attention is 'unfused', which is for CUDA: the CPU has one attention, and uses it");
  read_prompts(config.prompt_learning, model_config_);
  read_gemm_config(config, warnings);
  complete_limits(config);
  load(config, warnings);
  connect_ranks(config);
  const int32_t logit_rows = on_gpu() ? 256 : 64;
  backend_->reserve({.tokens = limits_.tokens,
                     .kv = config.max_model_len,
                     .heads = int32_t(shard_.share(model_config_.num_attention_heads)),
                     .head_dim = model_config_.head_dim(),
                     .vocab = model_config_.vocab_size,
                     .logit_rows = logit_rows,
                     .narrow_inputs = narrow_inputs()});
  arena_ = std::make_unique<Arena>(*backend_);
  activations_ =
      make_activations(*arena_, model_config_, shard_, backend_->activation_dtype(dtype_named(config.dtype)), limits_.tokens, logit_rows);
  if (recordable()) limits_.recorded = shapes_to_record(limits_, logit_rows);
  if (unfused) std::erase_if(limits_.recorded, [](const StepShape& shape) { return shape.max_q > 1; });  // it goes by the host's lengths
  make_buffers(config);
  if (shard_.stage.first()) virtual_tokens_ = arena_->tensor(limits_.table_rows + limits_.embed_rows, limits_.hidden);
  make_cache(config, page_dtype_named(config.kv_cache_dtype));  // last: it may take what is left
  model_ = std::make_unique<Model>(Model::Parts{.backend = *backend_,
                                                .tensor_parallel = *tensor_parallel_,
                                                .pipeline = *pipeline_,
                                                .config = model_config_,
                                                .weights = *weights_,
                                                .kv = kv_->layers(),
                                                .activations = activations_,
                                                .virtual_tokens = virtual_tokens_,
                                                .shard = shard_});
  if (config.record_steps) record_steps();
  load_tables(config.prompt_learning);
  load_prefixes(config.prompt_learning);
  for (PromptTask& task : config.prompt_learning.tasks) task.values = {};  // they are on the device
}

void Executor::read_gemm_config(EngineConfig& config, std::vector<std::string>& warnings) {
  if (config.gemm_config.empty()) return;
  try {
    backend_->use_gemm_config(config.gemm_config);
  } catch (const Error& e) {
    warnings.push_back(concat("gemm_config is not used, each product has the algorithm that it has without: ", e.what()));
    config.gemm_config.clear();
  }
}

/// The ranks of a stage, and those that hold the same share in all stages.
void Executor::connect_ranks(const EngineConfig& config) {
  const int tp = config.tensor_parallel_size, stage = group_.rank() / tp;
  std::vector<int> side(static_cast<size_t>(tp)), line(static_cast<size_t>(config.pipeline_parallel_size));
  for (int i = 0; i < tp; i++) side[size_t(i)] = stage * tp + i;
  for (size_t i = 0; i < line.size(); i++) line[i] = int(i) * tp + shard_.rank;
  const auto connect = [&](const std::vector<int>& members, Channel channel) -> std::unique_ptr<Communicator> {
    if (members.size() == 1) return std::make_unique<SoloCommunicator>();
    return backend_->connect(group_, members, channel, dtype_named(config.dtype));
  };
  tensor_parallel_ = connect(side, Channel::tensor_parallel);
  pipeline_ = connect(line, Channel::pipeline);
}

std::string Executor::connections() const {
  const std::string layer = tensor_parallel_->describe(), stages = pipeline_->describe();
  return concat(group_.describe(), layer.empty() ? "" : concat("; tensor parallel: ", layer),
                stages.empty() ? "" : concat("; pipeline: ", stages));
}

void Executor::make_buffers(const EngineConfig& config) {
  const auto samples = size_t(limits_.slots) * size_t(limits_.samples());
  results_.resize(size_t(limits_.slots)), marks_.resize(size_t(limits_.slots));
  max_logprobs_ = config.max_logprobs;
  step_buffer_ = Buffer(*backend_, StepBuffer(limits_).device_capacity());
  samples_ = Buffer(*backend_, samples * sizeof(Sample));
  top_ids_ = Buffer(*backend_, samples * size_t(config.max_logprobs) * sizeof(int32_t));
  top_logprobs_ = Buffer(*backend_, samples * size_t(config.max_logprobs) * sizeof(float));
  candidates_ = Buffer(*backend_, size_t(limits_.slots) * size_t(limits_.candidates()) * sizeof(Candidate));
}

void Executor::complete_limits(EngineConfig& c) {
  auto positive = [](const char* name, int32_t value) { require(value > 0, name, " is ", value, ", expected 1 or more"); };
  if (c.max_model_len == 0) c.max_model_len = model_config_.max_position_embeddings;
  // A GPU's products gain by up to as many rows, and every stage of a pipeline needs steps to do; a CPU's step stays short enough to stop.
  if (c.max_num_batched_tokens == 0) c.max_num_batched_tokens = on_gpu() ? std::max(4096 / c.pipeline_parallel_size, 512) : 256;
  positive("max_model_len", c.max_model_len);
  positive("max_num_seqs", c.max_num_seqs);
  positive("max_num_batched_tokens", c.max_num_batched_tokens);
  require(c.max_num_batched_tokens <= kMaxTokens, "max_num_batched_tokens is ", c.max_num_batched_tokens, ", expected at most ",
          kMaxTokens);
  require(c.max_model_len <= model_config_.max_position_embeddings, "max_model_len is ", c.max_model_len,
          ", expected at most the model's max_position_embeddings ", model_config_.max_position_embeddings);
  require(c.block_size >= 16 && c.block_size % 16 == 0 && c.block_size <= 1024, "block_size is ", c.block_size,
          ", expected a multiple of 16 up to 1024");
  require(c.max_logprobs >= 0 && c.max_logprobs <= 1024, "max_logprobs is ", c.max_logprobs, ", expected 0 to 1024");
  require(model_config_.eos_token_ids.size() <= size_t(kMaxEndIds), c.model, " has ", model_config_.eos_token_ids.size(),
          " EOS ids, expected at most ", kMaxEndIds);
  require(c.kv_cache_memory >= 0, "kv_cache_memory is ", c.kv_cache_memory, ", expected bytes, or 0 for what is sensible");
  for (const PromptTask& task : c.prompt_learning.tasks)
    require(task.type == PromptType::tuning || task.length < c.max_model_len, "the prefix prompt of task '", task.name, "' has ",
            task.length, " virtual tokens, expected fewer than max_model_len ", c.max_model_len);
  limits_ = {.tokens = c.max_num_batched_tokens,
             .seqs = std::min(c.max_num_seqs, c.max_num_batched_tokens),
             .blocks_per_seq = (c.max_model_len + c.block_size - 1) / c.block_size,
             .block_size = c.block_size,
             .vocab = model_config_.vocab_size,
             .slots = std::max(2, c.pipeline_parallel_size),
             .hidden = model_config_.hidden_size,
             .embed_rows = std::clamp(kEmbedBytes / int32_t(sizeof(float)) / model_config_.hidden_size, 1, c.max_num_batched_tokens),
             .table_rows = table_rows(c.prompt_learning)};
  if (const int64_t pages = int64_t(limits_.seqs) * limits_.blocks_per_seq; pages > kMaxTablePages)
    fail(ErrorKind::memory, "max_num_seqs ", limits_.seqs, " of max_model_len ", c.max_model_len, " may have ", pages,
         " pages in a step, expected at most ", kMaxTablePages, ": lower one of them");
}

void Executor::load(EngineConfig& config, std::vector<std::string>& warnings) {
  const std::unique_ptr<Checkpoint> checkpoint = open_checkpoint(config.model, config.load_format, model_config_);
  constexpr const char *kFirst = "gpt_neox.layers.0.attention.query_key_value.weight", *kEmbedding = "gpt_neox.embed_in.weight";
  if (config.dtype == "auto") config.dtype = name_of(checkpoint->dtype_of(checkpoint->is_quantized(kFirst) ? kEmbedding : kFirst));
  const DType dtype = dtype_named(config.dtype);
  const Quantization quantization =
      choose_quantization(config.quantization, config.quantization_group_size, model_config_.quantization, dtype);
  config.quantization = quantization.mode, config.quantization_group_size = quantization.group;
  if (on_gpu() && config.kv_cache_dtype == "int8")
    fail(ErrorKind::unsupported, "kv_cache_dtype is 'int8', which CUDA does not have: expected auto, float32, float16 or bfloat16");
  if (on_gpu() && quantization.mode != "none")
    fail(ErrorKind::unsupported, "quantization is '", quantization.mode, "', which CUDA does not have: expected none, or device cpu");
  if (config.kv_cache_dtype == "auto") config.kv_cache_dtype = config.dtype;
  const auto told = group_.rank() == 0 ? config.on_layer_loaded : nullptr;
  weights_ = std::make_unique<Weights>(*backend_, *checkpoint, model_config_, shard_, dtype, quantization, warnings, told);
  if (config.load_format == "dummy") warnings.push_back("the weights are random (load_format dummy): what is generated means nothing");
}

/// The widest input of this rank's matrices, where inputs become integers.
int32_t Executor::narrow_inputs() const {
  int64_t most = 0;
  const auto look = [&](const Linear& l) {
    if (has_narrow_inputs(l.weight.dtype)) most = std::max(most, l.weight.cols);
  };
  for (const Layer& l : weights_->layers)
    for (const Linear* linear : {&l.qkv, &l.out, &l.up, &l.down}) look(*linear);
  look(weights_->head);
  return int32_t(most);
}

void Executor::make_cache(EngineConfig& c, DType dtype) {
  const KvPages shape{.dtype = dtype,
                      .heads = int32_t(shard_.share(model_config_.num_attention_heads)),
                      .head_dim = model_config_.head_dim(),
                      .block = c.block_size};
  const int32_t layers = shard_.stage.last_layer - shard_.stage.first_layer;
  const auto block_bytes = int64_t(KvCache::block_bytes(*backend_, shape, layers));
  int64_t memory = c.kv_cache_memory;
  if (memory == 0)
    memory = on_gpu() ? backend_->memory_free() / 10 * 9 : std::min(int64_t(4) << 30, backend_->memory_free() / 4) / group_.neighbours();
  int64_t most = int64_t(limits_.blocks_per_seq) * c.max_num_seqs;
  for (const int32_t positions : prefixes_of(c.prompt_learning)) most += (positions + c.block_size - 1) / c.block_size;
  int64_t blocks = std::min({memory / block_bytes, most, int64_t(INT32_MAX) / c.block_size});
  if (blocks < 1)
    fail(ErrorKind::memory, "the KV cache may take ", memory, " bytes, but one page of ", c.block_size, " positions takes ", block_bytes,
         ": raise kv_cache_memory");
  if (group_.size() > 1) blocks = minimum(group_, blocks);
  num_blocks_ = int32_t(blocks);
  kv_ = std::make_unique<KvCache>(*backend_, shape, layers, num_blocks_);
}

/// Samples those rows from the done-th on whose out rows are among these logits; returns how many are done then.
int32_t Executor::sample(const StepBuffer& buffer, const Tensor& logits, int32_t first, int32_t done) {
  const SampleRow* rows = buffer.sample_rows(buffer.data());  // on the host, to see which they are
  const auto* base = step_buffer_.data<const int32_t>();
  int32_t end = done;
  while (end < buffer.padded_samples() && rows[end].row < first + logits.rows) end++;
  if (end > done)
    backend_->sample({.logits = logits,
                      .rows = buffer.sample_rows(base) + done,
                      .count = end - done,
                      .edits = buffer.edits(base),
                      .out = samples_.data<Sample>(),
                      .top_ld = max_logprobs_,
                      .top_ids = top_ids_.data<int32_t>(),
                      .top_logprobs = top_logprobs_.data<float>(),
                      .first = first});
  return end;
}

void Executor::beam_candidates(const StepBuffer& buffer, const Tensor& logits, int32_t first) {
  if (buffer.beam_rows() == 0) return;
  const auto* base = step_buffer_.data<const int32_t>();
  backend_->beam_candidates({.logits = logits,
                             .rows = buffer.beam_rows(base),
                             .count = buffer.beam_rows(),
                             .edits = buffer.edits(base),
                             .candidates = candidates_.data<Candidate>(),
                             .out = samples_.data<Sample>(),
                             .top_ld = max_logprobs_,
                             .top_ids = top_ids_.data<int32_t>(),
                             .top_logprobs = top_logprobs_.data<float>(),
                             .first = first});
}

/// All ops of a step that lies in the device's step buffer.
void Executor::run(const StepBuffer& buffer) {
  const Step step = buffer.step(step_buffer_.data<const int32_t>());
  model_->forward(step, samples_.data<Sample>());
  if (!shard_.stage.last()) return;
  auto sink = buffer.sinks().begin();
  int32_t done = 0;
  for (int32_t first = 0, count; first < step.outs; first += count) {
    count = std::min(model_->logit_rows(), step.outs - first);
    const Tensor logits = model_->logits(step, first, count);
    done = sample(buffer, logits, first, done);
    beam_candidates(buffer, logits, first);
    for (; sink != buffer.sinks().end() && sink->out_row < first + count; ++sink)
      backend_->download(sink->to, logits.row(sink->out_row - first), size_t(logits.cols) * sizeof(float));
  }
}

void Executor::record_steps() {
  StepBuffer buffer(limits_);
  for (int32_t i = 0; i < int32_t(limits_.recorded.size()); i++) {
    buffer.fill_padding(i);
    upload(buffer);
    run(buffer);  // so that what an op makes at its first use is there
    replays_.push_back(backend_->record([&] { run(buffer); }));
  }
  backend_->synchronize();
}

void Executor::upload(const StepBuffer& buffer) {
  backend_->upload(step_buffer_.data(), buffer.data(), buffer.device_bytes());
  if (buffer.embed_rows() > 0 && shard_.stage.first())
    backend_->upload(virtual_tokens_.row(limits_.table_rows), buffer.embeds(), buffer.embed_bytes());
}

void Executor::enqueue(const StepBuffer& buffer) {
  Backend& be = *backend_;
  upload(buffer);
  const int32_t* copies = buffer.copies(step_buffer_.data<const int32_t>());
  for (const KvPages& layer : kv_->layers())
    if (buffer.copy_count() > 0) be.copy_blocks({.kv = layer, .pairs = copies, .count = buffer.copy_count()});
  const int32_t recorded = buffer.recorded();
  if (recorded >= 0 && !replays_.empty()) replays_[size_t(recorded)]->run();
  else run(buffer);
  if (samples()) download(buffer);
}

void Executor::download(const StepBuffer& buffer) {
  Result& result = results_[buffer.ring_slot()];
  const int64_t first = int64_t(buffer.ring_slot()) * limits_.samples();
  const auto samples = size_t(buffer.samples());
  result.top_ld = buffer.top_n() > 0 ? max_logprobs_ : 0;
  const size_t top = samples * size_t(result.top_ld);
  result.samples.resize(samples), result.top_ids.resize(top), result.top_logprobs.resize(top);
  backend_->download(result.samples.data(), samples_.data<Sample>() + first, samples * sizeof(Sample));
  if (top > 0) {
    backend_->download(result.top_ids.data(), top_ids_.data<int32_t>() + first * max_logprobs_, top * sizeof(int32_t));
    backend_->download(result.top_logprobs.data(), top_logprobs_.data<float>() + first * max_logprobs_, top * sizeof(float));
  }
  result.candidates.resize(size_t(buffer.candidates()));
  if (buffer.candidates() > 0)
    backend_->download(result.candidates.data(), candidates_.data<Candidate>() + int64_t(buffer.ring_slot()) * limits_.candidates(),
                       result.candidates.size() * sizeof(Candidate));
  marks_[buffer.ring_slot()] = backend_->mark();
}

const Executor::Result& Executor::collect(int32_t slot_index) {
  backend_->wait(marks_[slot_index]);
  return results_[slot_index];
}

int32_t Executor::probe(const StepBuffer& buffer) {
  int32_t where = kAllFinite;
  const auto look = [&](int32_t layer, const Tensor& x) {
    std::vector<float> row(size_t(x.cols));
    for (int64_t r = 0; r < x.rows && layer < where; r++) {
      backend_->download(row.data(), x.row(r), row.size() * sizeof(float));
      backend_->synchronize();
      if (!std::all_of(row.begin(), row.end(), [](float v) { return std::isfinite(v); })) where = layer;
    }
  };
  upload(buffer);
  model_->forward(buffer.step(step_buffer_.data<const int32_t>()), samples_.data<Sample>(), look);
  return where;
}

}  // namespace neox
