// SPDX-License-Identifier: Apache-2.0
#include "neox/engine.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "base/check.h"
#include "base/philox.h"
#include "engine/engine_impl.h"
#include "engine/text.h"
#include "model/prompts.h"

namespace neox {

namespace {

/// Steps that may be on their way at once: as many as stages, so that each has one to work on; on one stage, one more than runs where the
/// device works beside the host.
int32_t steps_ahead(const EngineConfig& c, bool beside_host) {
  const bool overlap = c.async_scheduling.value_or(c.pipeline_parallel_size > 1 || beside_host);
  return overlap ? std::max(c.pipeline_parallel_size, 2) : 1;
}

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string described_use(const std::string& gemm_config, const GemmUse& use) {
  if (gemm_config.empty()) return "none";
  return concat(gemm_config, ": ", use.lines, " choices; of the products of recorded steps ", use.hits, " take one, ", use.misses,
                " do not");
}

}  // namespace

Engine::Impl::Impl(const EngineConfig& c)
    : config(c), ranks(config, info.warnings), scheduler(executor().limits(), executor().num_blocks(), c.enable_prefix_caching,
                                                         c.pipeline_parallel_size, prefixes_of(config.prompt_learning)),
      buffer(executor().limits()), depth(steps_ahead(c, executor().backend().name() != "cpu")), limit(executor().model().vocab_size),
      process(getpid()), soft_prompts(-int64_t(c.prompt_learning.tasks.size())) {
  stats.blocks_total = executor().num_blocks();
  describe();
}

void Engine::Impl::describe() {
  const ModelConfig& m = executor().model();
  std::vector<std::string> warnings = std::move(info.warnings);
  info = {.model = config.model,
          .load_format = config.load_format,
          .device = config.device,
          .device_detail = executor().backend().describe(),
          .dtype = config.dtype,
          .quantization = config.quantization,
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
          .parameters = m.parameters(),
          .weight_bytes = int64_t(executor().weight_bytes()),
          .kv_cache_bytes = int64_t(executor().kv_cache_bytes()),
          .quantization_group_size = config.quantization_group_size,
          .block_size = config.block_size,
          .num_blocks = executor().num_blocks(),
          .max_model_len = config.max_model_len,
          .max_num_seqs = executor().limits().seqs,
          .max_num_batched_tokens = config.max_num_batched_tokens,
          .num_threads = config.num_threads,
          .rank = ranks.group().rank(),
          .world_size = ranks.group().size(),
          .tensor_parallel_size = config.tensor_parallel_size,
          .pipeline_parallel_size = config.pipeline_parallel_size,
          .first_layer = executor().shard().stage.first_layer,
          .last_layer = executor().shard().stage.last_layer,
          .ranks = executor().connections(),
          .gemm_config = described_use(config.gemm_config, executor().backend().gemm_use()),
          .eos_token_ids = m.eos_token_ids,
          .warnings = std::move(warnings),
          .tasks = {},
          .prompt_learning_start_id = config.prompt_learning.start_id};
  for (const PromptTask& t : config.prompt_learning.tasks) info.tasks.push_back({.name = t.name, .type = t.type, .length = t.length});
}

void Engine::Impl::check_usable() const {
  if (getpid() != process)
    fail(ErrorKind::runtime, "this engine was made in process ", process, " and cannot be used in its fork ", getpid(),
         ": make the engine after forking");
}

void Engine::Impl::check_params(const Sequence& s, const SamplingParams& p) const {
  p.validate();
  const auto virtual_tokens = std::count_if(s.tokens.begin(), s.tokens.end(), is_virtual);
  require(int64_t(s.length()) + (p.max_tokens > 0) <= config.max_model_len, "the prompt has ", s.length(), " tokens",
          virtual_tokens > 0 ? concat(", of them ", virtual_tokens, " virtual ones") : "", ", expected ",
          p.max_tokens > 0 ? "fewer than" : "at most", " max_model_len ", config.max_model_len);
  require(p.logprobs <= config.max_logprobs, "logprobs is ", p.logprobs, ", expected at most max_logprobs ", config.max_logprobs);
  require(p.prompt_logprobs <= config.max_logprobs, "prompt_logprobs is ", p.prompt_logprobs, ", expected at most max_logprobs ",
          config.max_logprobs);
  require(p.stop.empty() || !vocabulary.bytes.empty(),
          "stop holds strings, but the engine has no vocabulary to match them with: use lists of ids");
  require(p.bad_words.empty() || !vocabulary.bytes.empty(),
          "bad_words holds strings, but the engine has no vocabulary to match them with: use lists of ids");
  const auto check_id = [&](const char* name, int32_t id) {
    require(id < executor().model().vocab_size, name, " holds ", id, ", expected ids of the vocabulary, 0 to ",
            executor().model().vocab_size - 1);
  };
  const auto check_phrases = [&](const char* name, const std::vector<std::vector<int32_t>>& phrases) {
    for (const auto& phrase : phrases) {
      require(phrase.size() <= size_t(config.max_model_len), name, " holds a phrase of ", phrase.size(),
              " ids, expected at most max_model_len ", config.max_model_len);
      for (int32_t id : phrase) check_id(name, id);
    }
  };
  check_phrases("bad_words", p.bad_words_ids);
  check_phrases("stop", p.stop_phrases);
  for (const auto& [id, bias] : p.logit_bias) check_id("logit_bias", id);
  for (int32_t id : p.allowed_token_ids) check_id("allowed_token_ids", id);
  for (int32_t id : p.stop_token_ids) check_id("stop_token_ids", id);
}

std::shared_ptr<Sequence> Engine::Impl::make_sequence(const Prompt& prompt, const SamplingParams& params) {
  auto s = std::make_shared<Sequence>();
  lay_out(*s, prompt);
  check_params(*s, params);
  set_params(s, prompt, params);
  return s;
}

/// What follows from the parameters. forward's, which ask for no token and no log-prob, no request may have.
void Engine::Impl::set_params(const std::shared_ptr<Sequence>& s, const Prompt& prompt, const SamplingParams& params) {
  s->params = params;
  s->max_length = int32_t(std::min<int64_t>(int64_t(s->prompt_length) + params.max_tokens, config.max_model_len));
  s->top_p = params.top_p;
  const auto rules = std::make_shared<const Rules>(params, executor().model().eos_token_ids, vocabulary);
  s->processors = Processors(rules, s->tokens);
  if (!params.stop.empty()) s->before = tail_of(s->tokens, longest_of(params.stop) - 1, vocabulary);
  s->forks = params.n - 1;
  if (params.beam_width > 1) {
    const auto ends = int32_t(rules->ends.size());
    s->group = std::make_shared<BeamGroup>(
        BeamGroup{.search = BeamSearch(params, ends, s->max_length - s->prompt_length), .leader = s, .beams = {}});
  }
  const int64_t front = s->prompt_length - int64_t(prompt.ids.size());
  s->scored = int32_t(std::min<int64_t>(std::max<int64_t>(s->prefix_length + 1, front + params.prompt_logprobs_start), s->prompt_length));
  const int64_t width = params.beam_width, shared = s->prompt_length / config.block_size;  // pages of the prompt
  const int64_t blocks = shared - s->prefix_length / config.block_size + width * (scheduler.pool().blocks_for(s->max_length) - shared);
  const int64_t free_pages = scheduler.pool().size() - scheduler.pinned_pages();
  require(blocks <= free_pages, "the request needs ", blocks, " pages of the KV cache for ", width > 1 ? "beams of " : "", s->max_length,
          " tokens, but there are ", free_pages, ": raise kv_cache_memory, or shorten the prompt or max_tokens");
  require(width <= executor().limits().seqs, "beam_width is ", width, ", expected at most max_num_seqs and max_num_batched_tokens (",
          executor().limits().seqs, ")");
  const int64_t edits = width * rules->most_words(s->max_length, executor().model().vocab_size), most = executor().limits().edit_words;
  require(edits <= most, "penalties, logit_bias, bad_words and allowed_token_ids may take ", edits, " words of a step's ", most,
          ": expected fewer or longer bad_words, or fewer ids");
  if (!prompt.embeds.empty()) keep_embeds(*s, prompt);
}

uint64_t Engine::Impl::draw_seed(uint64_t request_id) const {
  if (config.seed) {  // another stream for each request, the same in every run
    const auto words =
        philox({uint32_t(request_id), uint32_t(request_id >> 32), 0, 0}, uint32_t(*config.seed), uint32_t(*config.seed >> 32));
    return words[0] | uint64_t(words[1]) << 32;
  }
  std::random_device entropy;
  return entropy() | uint64_t(entropy()) << 32;
}

void Engine::Impl::check_unbroken() const {
  if (!failure.empty()) fail(ErrorKind::runtime, "this engine failed earlier and cannot go on: ", failure);
}

void Engine::Impl::step(std::vector<Delta>& deltas) {
  check_unbroken();
  const double planning = stats.planning_seconds;
  const auto begin = Clock::now();
  try {
    read_inbox(deltas);
    if (scheduler.needs_tokens())
      for (; !flying.empty(); flying.pop_front()) settle(flying.front(), deltas);
    const bool started = int32_t(flying.size()) < depth && start_next();
    if (!flying.empty() && (!started || int32_t(flying.size()) == depth)) {
      settle(flying.front(), deltas);
      flying.pop_front();
      if (config.pipeline_parallel_size > 1) start_next();  // the first stage may be idle until then
    }
    count(seconds_since(begin) - (stats.planning_seconds - planning));
  } catch (const std::exception& e) { break_down(e); }
}

/// Plans a step and sends it on its way, if there is anything to compute.
bool Engine::Impl::start_next() {
  const auto begin = Clock::now();
  StepPlan plan = scheduler.schedule(flying.empty() ? 0 : (flying.back().slot + 1) % executor().limits().slots);
  const int32_t tokens = plan.tokens;
  if (tokens > 0) buffer.fill(plan, limit);
  {
    const std::lock_guard lock(inbox);
    stats.planning_seconds += seconds_since(begin);
    stats.steps += tokens > 0, stats.tokens_computed += tokens;
  }
  if (tokens == 0) return false;
  ranks.enqueue(buffer);
  flying.push_back(std::move(plan));
  return true;
}

/// What an exception leaves behind cannot be told, here and on the other ranks.
void Engine::Impl::break_down(const std::exception& why) {
  failure = why.what();
  broken = true;
  ranks.fail(why);
  throw;
}

void Engine::Impl::check_drives(const char* what) const {
  if (ranks.group().rank() != 0)
    fail(ErrorKind::runtime, what, " was called on rank ", ranks.group().rank(),
         ", expected rank 0, which drives: the other ranks follow it");
}

Engine::Engine(const EngineConfig& config) : impl_(std::make_unique<Impl>(config)) {}
Engine::~Engine() = default;

void Engine::set_vocabulary(Vocabulary vocabulary) {
  impl_->check_usable();
  const std::scoped_lock lock(impl_->stepping, impl_->inbox);
  if (impl_->requests > 0)
    fail(ErrorKind::runtime, "set_vocabulary was called after ", impl_->requests, " requests, expected before the first");
  require(!vocabulary.bytes.empty(), "the vocabulary is empty");
  impl_->limit = int32_t(std::min(vocabulary.bytes.size(), size_t(impl_->executor().model().vocab_size)));
  impl_->vocabulary = std::move(vocabulary);
}

uint64_t Engine::submit(const Prompt& prompt, const SamplingParams& params) {
  impl_->check_usable();
  impl_->check_drives("submit");
  auto s = impl_->make_sequence(prompt, params);
  const std::lock_guard lock(impl_->inbox);
  s->request_id = ++impl_->requests;
  s->seed = params.seed ? *params.seed : impl_->draw_seed(s->request_id);
  impl_->submitted.push_back(std::move(s));
  impl_->open++;
  return impl_->requests;
}

void Engine::cancel(uint64_t request_id) {
  impl_->check_usable();
  impl_->check_drives("cancel");
  const std::lock_guard lock(impl_->inbox);
  impl_->cancelled.push_back(request_id);
}

std::vector<Delta> Engine::step() {
  impl_->check_usable();
  impl_->check_drives("step");
  const std::unique_lock lock(impl_->stepping, std::try_to_lock);
  if (!lock) fail(ErrorKind::runtime, "step was called while another thread is inside step or forward");
  std::vector<Delta> deltas = std::move(impl_->pending);
  impl_->pending.clear();
  impl_->has_pending = false;
  impl_->step(deltas);
  return deltas;
}

bool Engine::failed() const { return impl_->broken; }
bool Engine::has_work() const { return impl_->open > 0 || impl_->has_pending; }

Stats Engine::stats() const {
  const std::lock_guard lock(impl_->inbox);
  Stats out = impl_->stats;
  out.requests = int64_t(impl_->requests);
  out.finished = out.requests - impl_->open;
  out.waiting += int32_t(impl_->submitted.size());
  return out;
}

void Engine::forward(std::span<const int32_t> ids, int64_t batch, int64_t length, std::span<float> out) {
  Impl& e = *impl_;
  e.check_usable();
  e.check_drives("forward");
  const int64_t vocab = e.executor().model().vocab_size;
  const auto size = int64_t(ids.size());
  require(batch >= 1 && length >= 1 && size % length == 0 && size / length == batch, "input_ids has ", size, " elements, expected batch ",
          batch, " * length ", length, ", each at least 1");
  require(length <= e.config.max_model_len, "input_ids has ", length, " positions, expected at most max_model_len ",
          e.config.max_model_len);
  require(int64_t(out.size()) == batch * length * vocab, "out has ", out.size(), " elements, expected ", batch * length * vocab);
  e.read_ids({.ids = ids}, nullptr);
  const std::lock_guard stepping(e.stepping);
  int64_t left = batch;
  {
    std::vector<std::shared_ptr<Sequence>> made;
    for (int64_t b = 0; b < batch; b++) {
      made.push_back(std::make_shared<Sequence>());
      const Prompt prompt{.ids = ids.subspan(size_t(b * length), size_t(length))};
      e.lay_out(*made.back(), prompt);
      e.set_params(made.back(), prompt, {.max_tokens = 0});
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
  while (left > 0) {
    e.step(e.pending);
    e.has_pending = !e.pending.empty();
  }
}

const EngineInfo& Engine::info() const { return impl_->info; }

void Engine::meet(const std::string& call) {
  impl_->check_usable();
  const std::lock_guard stepping(impl_->stepping);
  impl_->check_unbroken();
  try {
    impl_->ranks.meet(call);
  } catch (const Error& e) {
    if (e.kind == ErrorKind::invalid) throw;  // the ranks differ, and all know it
    impl_->break_down(e);
  }
}

std::string Engine::follow() {
  impl_->check_usable();
  const std::lock_guard stepping(impl_->stepping);
  impl_->check_unbroken();
  if (impl_->ranks.group().rank() == 0) fail(ErrorKind::runtime, "follow was called on rank 0, which drives: expected another rank");
  try {
    return impl_->ranks.follow();
  } catch (const std::exception& e) { impl_->break_down(e); }
}

void Engine::release(const std::string& word) {
  impl_->check_usable();
  impl_->check_drives("release");
  const std::lock_guard stepping(impl_->stepping);
  impl_->check_unbroken();
  if (impl_->config.ranks == "mpi") impl_->ranks.release(word);
}

}  // namespace neox
