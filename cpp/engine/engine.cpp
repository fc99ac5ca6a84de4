// SPDX-License-Identifier: Apache-2.0
#include "neox/engine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>

#include "base/check.h"
#include "base/philox.h"
#include "engine/detokenizer.h"
#include "engine/executor.h"
#include "engine/scheduler.h"

namespace neox {

/// Two locks: `stepping` is held through a step, `inbox` for the moment in which submit and cancel leave something for the next one.
struct Engine::Impl {
  explicit Impl(const EngineConfig& c)
      : config(c), executor(config, info.warnings), scheduler(limits(), executor.num_blocks()),
        buffer(executor.limits(), executor.model().eos_token_ids) {
    limit = executor.model().vocab_size;
    describe();
  }

  SchedulerLimits limits() const {
    return {.max_num_seqs = executor.limits().seqs, .max_num_batched_tokens = executor.limits().tokens, .block_size = config.block_size};
  }
  void describe();
  void check_usable() const;
  void check_prompt(std::span<const int32_t> prompt) const;
  std::unique_ptr<Sequence> make_sequence(std::span<const int32_t> prompt, const SamplingParams& params);
  void read_inbox(std::vector<Delta>& deltas);
  void step(std::vector<Delta>& deltas);
  void advance(Sequence& s, const Sample& sample, std::vector<Delta>& deltas);
  void append(Sequence& s, const Sample& sample, Delta& delta);
  void finish(Sequence& s);

  EngineConfig config;  // "auto" and 0 replaced by what they came to
  EngineInfo info;
  Executor executor;
  Scheduler scheduler;
  StepBuffer buffer;
  Vocabulary vocabulary;
  int32_t limit;  // ids from here on are banned
  const pid_t process = getpid();
  std::string failure;  // what broke the engine for good

  std::mutex stepping;
  std::mutex inbox;
  std::vector<std::unique_ptr<Sequence>> submitted;  // under inbox
  std::vector<uint64_t> cancelled;                   // under inbox
  uint64_t requests = 0;                             // under inbox
  std::vector<Delta> waiting;                        // of other requests, made while forward was stepping; under stepping
  std::atomic<int64_t> open{0};                      // requests that have not ended
};

void Engine::Impl::describe() {
  const ModelConfig& m = executor.model();
  std::vector<std::string> warnings = std::move(info.warnings);
  info = {.model = config.model,
          .device = config.device,
          .device_detail = executor.backend().describe(),
          .dtype = config.dtype,
          .kv_cache_dtype = config.kv_cache_dtype,
          .hidden_act = m.hidden_act,
          .layers = m.num_hidden_layers,
          .hidden = m.hidden_size,
          .heads = m.num_attention_heads,
          .head_dim = m.head_dim(),
          .intermediate = m.intermediate_size,
          .vocab = m.vocab_size,
          .rotary_dim = m.rotary_dim,
          .max_positions = m.max_position_embeddings,
          .rotary_base = m.rotary_base,
          .layer_norm_eps = m.layer_norm_eps,
          .parallel_residual = m.use_parallel_residual,
          .tied_embedding = m.tie_word_embeddings,
          .attention_bias = m.attention_bias,
          .parameters = executor.parameters(),
          .weight_bytes = int64_t(executor.weight_bytes()),
          .kv_cache_bytes = int64_t(executor.kv_cache_bytes()),
          .block_size = config.block_size,
          .num_blocks = executor.num_blocks(),
          .max_model_len = config.max_model_len,
          .max_num_seqs = executor.limits().seqs,
          .max_num_batched_tokens = config.max_num_batched_tokens,
          .num_threads = config.num_threads,
          .eos_token_ids = m.eos_token_ids,
          .warnings = std::move(warnings)};
}

void Engine::Impl::check_usable() const {
  if (getpid() != process)
    fail(ErrorKind::runtime, "this engine was made in process ", process, " and cannot be used in its fork ", getpid(),
         ": make the engine after forking");
  if (!failure.empty()) fail(ErrorKind::runtime, "this engine failed earlier and cannot go on: ", failure);
}

void Engine::Impl::check_prompt(std::span<const int32_t> prompt) const {
  require(!prompt.empty(), "the prompt is empty, expected at least one token");
  for (size_t i = 0; i < prompt.size(); i++)
    require(prompt[i] >= 0 && prompt[i] < executor.model().vocab_size, "the prompt's token ", i, " is ", prompt[i], ", expected 0 to ",
            executor.model().vocab_size - 1);
}

std::unique_ptr<Sequence> Engine::Impl::make_sequence(std::span<const int32_t> prompt, const SamplingParams& params) {
  auto s = std::make_unique<Sequence>();
  s->tokens.assign(prompt.begin(), prompt.end());
  s->prompt_length = int32_t(prompt.size());
  s->params = params;
  s->max_length = int32_t(std::min<int64_t>(int64_t(prompt.size()) + params.max_tokens, config.max_model_len));
  const int32_t blocks = scheduler.blocks_for(s->max_length);
  require(blocks <= scheduler.pool().size(), "the request needs ", blocks, " pages of the KV cache for ", s->max_length,
          " tokens, but there are ", scheduler.pool().size(), ": raise kv_cache_memory, or shorten the prompt or max_tokens");
  s->tokens.reserve(size_t(s->max_length));
  return s;
}

void Engine::Impl::read_inbox(std::vector<Delta>& deltas) {
  const std::lock_guard lock(inbox);
  for (auto& s : submitted) scheduler.add(std::move(s));
  submitted.clear();
  for (uint64_t id : cancelled)
    if (Sequence* s = scheduler.find(id)) {
      s->finish = FinishReason::cancelled;
      deltas.push_back({.request_id = id, .text = take_characters(s->pending, true), .finish = FinishReason::cancelled});
      finish(*s);
    }
  cancelled.clear();
}

void Engine::Impl::finish(Sequence& s) {
  if (s.left) --*s.left;
  open--;
  scheduler.remove(&s);
}

void Engine::Impl::append(Sequence& s, const Sample& sample, Delta& delta) {
  s.tokens.push_back(sample.id);
  delta.token_ids.push_back(sample.id);
  delta.logprobs.push_back(sample.logprob);
  if (size_t(sample.id) < vocabulary.bytes.size()) s.pending += vocabulary.bytes[size_t(sample.id)];
  const auto holds = [&](const std::vector<int32_t>& ids) { return std::find(ids.begin(), ids.end(), sample.id) != ids.end(); };
  if ((!s.params.ignore_eos && holds(executor.model().eos_token_ids)) || holds(s.params.stop_token_ids)) {
    s.finish = FinishReason::stop;
    delta.stop_token = sample.id;
  } else if (s.length() >= s.max_length) {
    s.finish = FinishReason::length;
  }
}

void Engine::Impl::advance(Sequence& s, const Sample& sample, std::vector<Delta>& deltas) {
  Delta delta{.request_id = s.request_id};
  if (sample.flags == 0) {
    append(s, sample, delta);
  } else {
    s.finish = FinishReason::error;
    delta.error = concat(sample.flags & kNonFinite ? "the logits hold NaN or infinity" : "every token is banned", " at position ",
                         s.length(), " of request ", s.request_id);
  }
  delta.text = take_characters(s.pending, s.finish != FinishReason::none);
  delta.finish = s.finish;
  if (s.finish != FinishReason::none) finish(s);
  deltas.push_back(std::move(delta));
}

void Engine::Impl::step(std::vector<Delta>& deltas) {
  check_usable();
  read_inbox(deltas);
  const StepPlan plan = scheduler.schedule();
  if (plan.chunks.empty()) return;
  try {
    buffer.fill(plan);
    const std::vector<Sample>& samples = executor.run(buffer, limit);
    auto sample = samples.begin();
    for (const Chunk& c : plan.chunks) {
      Sequence& s = *c.sequence;
      s.computed += c.count;
      if (c.samples) advance(s, *sample++, deltas);
      else if (s.logits_out && s.computed == s.length()) finish(s);
    }
  } catch (const std::exception& e) {
    failure = e.what();
    throw;
  }
}

Engine::Engine(const EngineConfig& config) : impl_(std::make_unique<Impl>(config)) {}
Engine::~Engine() = default;

void Engine::set_vocabulary(Vocabulary vocabulary) {
  impl_->check_usable();
  const std::lock_guard lock(impl_->stepping);
  if (impl_->requests > 0)
    fail(ErrorKind::runtime, "set_vocabulary was called after ", impl_->requests, " requests, expected before the first");
  require(!vocabulary.bytes.empty(), "the vocabulary is empty");
  impl_->limit = int32_t(std::min(vocabulary.bytes.size(), size_t(impl_->executor.model().vocab_size)));
  impl_->vocabulary = std::move(vocabulary);
}

uint64_t Engine::submit(std::span<const int32_t> prompt, const SamplingParams& params) {
  impl_->check_usable();
  params.validate();
  impl_->check_prompt(prompt);
  require(prompt.size() < size_t(impl_->config.max_model_len), "the prompt has ", prompt.size(),
          " tokens, expected fewer than max_model_len ", impl_->config.max_model_len);
  auto s = impl_->make_sequence(prompt, params);
  const std::lock_guard lock(impl_->inbox);
  s->request_id = ++impl_->requests;
  if (params.seed) {
    s->seed = *params.seed;
  } else if (impl_->config.seed) {  // another stream for each request, the same in every run
    const auto words = philox({uint32_t(s->request_id), uint32_t(s->request_id >> 32), 0, 0}, uint32_t(*impl_->config.seed),
                              uint32_t(*impl_->config.seed >> 32));
    s->seed = words[0] | uint64_t(words[1]) << 32;
  } else {
    std::random_device entropy;
    s->seed = entropy() | uint64_t(entropy()) << 32;
  }
  const uint64_t id = s->request_id;
  impl_->submitted.push_back(std::move(s));
  impl_->open++;
  return id;
}

void Engine::cancel(uint64_t request_id) {
  impl_->check_usable();
  const std::lock_guard lock(impl_->inbox);
  impl_->cancelled.push_back(request_id);
}

std::vector<Delta> Engine::step() {
  const std::unique_lock lock(impl_->stepping, std::try_to_lock);
  if (!lock) fail(ErrorKind::runtime, "step was called while another thread is inside step or forward");
  std::vector<Delta> deltas = std::move(impl_->waiting);
  impl_->waiting.clear();
  impl_->step(deltas);
  return deltas;
}

bool Engine::has_work() const { return impl_->open > 0; }

void Engine::forward(std::span<const int32_t> ids, int64_t batch, int64_t length, std::span<float> out) {
  Impl& e = *impl_;
  e.check_usable();
  const int64_t vocab = e.executor.model().vocab_size;
  require(batch >= 1 && length >= 1 && int64_t(ids.size()) == batch * length, "input_ids has ", ids.size(), " elements, expected batch ",
          batch, " * length ", length, ", each at least 1");
  require(length <= e.config.max_model_len, "input_ids has ", length, " positions, expected at most max_model_len ",
          e.config.max_model_len);
  require(int64_t(out.size()) == batch * length * vocab, "out has ", out.size(), " elements, expected ", batch * length * vocab);
  e.check_prompt(ids);
  const std::lock_guard stepping(e.stepping);
  int64_t left = batch;
  {
    std::vector<std::unique_ptr<Sequence>> made;
    for (int64_t b = 0; b < batch; b++) {
      made.push_back(e.make_sequence(ids.subspan(size_t(b * length), size_t(length)), {.max_tokens = 1}));
      made.back()->logits_out = out.data() + b * length * vocab;
      made.back()->left = &left;
    }
    const std::lock_guard lock(e.inbox);
    for (auto& s : made) {
      s->request_id = ++e.requests;
      e.submitted.push_back(std::move(s));
      e.open++;
    }
  }
  while (left > 0) e.step(e.waiting);
}

const EngineInfo& Engine::info() const { return impl_->info; }

}  // namespace neox
