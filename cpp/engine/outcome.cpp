// SPDX-License-Identifier: Apache-2.0
// What a step's results mean for the sequences: tokens appended, text cut, samples forked, requests ended.
#include <algorithm>

#include "base/check.h"
#include "engine/engine_impl.h"
#include "engine/text.h"

namespace neox {

void Engine::Impl::read_inbox(std::vector<Delta>& deltas) {
  std::vector<uint64_t> cancels;
  {
    const std::lock_guard lock(inbox);
    for (auto& s : submitted) {
      if (!s->logits_out) open_samples[s->request_id] = s->params.n;
      scheduler.add(std::move(s));
    }
    submitted.clear();
    cancels.swap(cancelled);
  }
  for (uint64_t id : cancels)
    scheduler.each_of(id, [&](Sequence& s) {
      if (s.logits_out) return;
      s.finish = FinishReason::cancelled;
      for (int32_t i = s.index; i <= s.index + s.forks; i++)
        deltas.push_back({.request_id = id, .index = i, .text = i == s.index ? take_characters(s.held, true) : "", .finish = s.finish});
      end(s);
    });
}

/// A sequence is done with, and so are the samples that would have branched off from it.
void Engine::Impl::end(Sequence& s) {
  if (s.logits_out) {
    --*s.left;
    open--;
  } else if (const auto it = open_samples.find(s.request_id); (it->second -= 1 + s.forks) == 0) {
    open_samples.erase(it);
    open--;
  }
  scheduler.remove(&s);
}

/// fresh: bytes of the last token, in which a stop string has to end: one that min_tokens passed over may still be held back.
void Engine::Impl::cut_text(Sequence& s, int32_t generated, size_t fresh, Delta& delta) const {
  const SamplingParams& p = s.params;
  const std::string text = s.before + s.held;
  StopMatch match;
  if (!p.stop.empty() && generated >= p.min_tokens && find_stop(text, p.stop, match, text.size() - fresh)) {
    s.finish = FinishReason::stop;
    delta.stop_token = -1, delta.stop_string = p.stop[match.which];
    s.held.resize(std::max(p.include_stop_str_in_output ? match.end : match.begin, s.before.size()) - s.before.size());
  }
  const bool ended = s.finish != FinishReason::none;
  const size_t keep = ended ? 0 : std::min(possible_stop(text, p.stop), s.held.size());
  const std::string kept = s.held.substr(s.held.size() - keep);
  s.held.resize(s.held.size() - keep);
  delta.text = take_characters(s.held, ended);
  if (!delta.text.empty()) s.before.clear();
  s.held += kept;
}

static bool ends_phrase(std::span<const int32_t> tokens, const std::vector<std::vector<int32_t>>& phrases) {
  return std::any_of(phrases.begin(), phrases.end(), [&](const std::vector<int32_t>& phrase) {
    return tokens.size() >= phrase.size() && std::equal(phrase.begin(), phrase.end(), tokens.end() - ptrdiff_t(phrase.size()));
  });
}

/// Whether a sequence ends with the last of `tokens`, but for what its text says.
BeamEnd Engine::Impl::end_by_token(const Sequence& s, std::span<const int32_t> tokens) const {
  const SamplingParams& p = s.params;
  const auto last_in = [&](const std::vector<int32_t>& ids) { return std::find(ids.begin(), ids.end(), tokens.back()) != ids.end(); };
  if ((!p.ignore_eos && last_in(executor().model().eos_token_ids)) || last_in(p.stop_token_ids))
    return {.reason = FinishReason::stop, .stop_token = tokens.back()};
  const auto length = int32_t(tokens.size());
  if (length - s.prompt_length >= p.min_tokens && ends_phrase(tokens, p.stop_phrases)) return {.reason = FinishReason::stop};
  return {.reason = length >= s.max_length ? FinishReason::length : FinishReason::none};
}

void Engine::Impl::append(Sequence& s, int32_t position, const Sample& sample, Delta& delta) const {
  if (position < s.length()) s.tokens[size_t(position)] = sample.id;  // where the plan left a note that it was being drawn
  else s.tokens.push_back(sample.id);
  delta.token_ids.push_back(sample.id);
  const size_t held = s.held.size();
  if (size_t(sample.id) < vocabulary.bytes.size()) s.held += vocabulary.bytes[size_t(sample.id)];
  const size_t fresh = s.held.size() - held;
  s.processors.see(sample.id);
  const SamplingParams& p = s.params;
  if (p.top_p_decay < 1) s.top_p = sample.id == p.top_p_reset_id ? p.top_p : std::max(s.top_p * p.top_p_decay, p.top_p_min);
  BeamEnd end = end_by_token(s, std::span(s.tokens).first(size_t(position) + 1));
  s.finish = end.reason, delta.stop_token = end.stop_token;
  cut_text(s, position + 1 - s.prompt_length, fresh, delta);
  delta.finish = s.finish;
}

Error Engine::Impl::explain(const Sequence& s, int32_t position, const Sample& sample) {
  const std::string where = concat(" at position ", position, " of request ", s.request_id);
  if (sample.flags & kAllBanned) return {ErrorKind::invalid, "every token is banned" + where};
  return {ErrorKind::numerical,
          concat("the logits hold NaN or infinity", where, "; it first appeared in ", ranks.locate_non_finite(s, position))};
}

void Engine::Impl::fail_request(Sequence& s, const Error& why, std::vector<Delta>& deltas) {
  s.finish = FinishReason::error;
  for (int32_t i = s.index; i <= s.index + s.forks; i++)
    deltas.push_back({.request_id = s.request_id, .index = i, .finish = s.finish, .error = why.what(), .error_kind = why.kind});
  end(s);
}

TokenLogprob token_logprob(const Executor::Result& r, size_t i, int32_t id, int32_t top_n) {
  TokenLogprob out{.id = id, .logprob = r.samples[i].logprob, .rank = r.samples[i].rank, .top = {}};
  for (size_t k = i * size_t(r.top_ld); k < i * size_t(r.top_ld) + size_t(std::max(top_n, 0)); k++)
    if (r.top_ids[k] >= 0) out.top.emplace_back(r.top_ids[k], r.top_logprobs[k]);
  return out;
}

void Engine::Impl::take_scores(const Chunk& c, const Executor::Result& r, size_t first) {
  Sequence& s = *c.sequence;
  for (int32_t i = c.first_score; i < c.score_end; i++) {
    const int32_t token = s.tokens[size_t(i)];
    if (is_virtual(token)) s.prompt_scores.push_back({.id = -1});
    else s.prompt_scores.push_back(token_logprob(r, first++, token, s.params.prompt_logprobs));
  }
}

void Engine::Impl::settle(const StepPlan& plan, std::vector<Delta>& deltas) {
  const Executor::Result& result = ranks.collect(plan.slot);
  size_t first = 0, candidate = 0;
  for (auto chunk = plan.chunks.begin(); chunk != plan.chunks.end();) {
    auto end = chunk + 1;
    if (chunk->candidates > 0) {  // all beams of a group at once
      const auto same = [&](const Chunk& c) { return c.candidates > 0 && c.sequence->group == chunk->sequence->group; };
      end = std::find_if_not(chunk, plan.chunks.end(), same);
      advance_beams({chunk, end}, result, first, candidate, deltas);
    } else {
      advance(*chunk, result, first, deltas);
    }
    for (; chunk != end; ++chunk) first += size_t(chunk->samples()), candidate += size_t(chunk->candidates);
  }
}

void Engine::Impl::advance(const Chunk& c, const Executor::Result& r, size_t first, std::vector<Delta>& deltas) {
  Sequence& s = *c.sequence;
  if (s.finish != FinishReason::none) return;  // it ended while this was on its way
  const auto begin = r.samples.begin() + ptrdiff_t(first);
  const auto bad = std::find_if(begin, begin + c.samples(), [](const Sample& x) { return x.flags != 0; });
  if (bad != begin + c.samples()) return fail_request(s, explain(s, c.start + c.count, *bad), deltas);
  if (c.samples() > 0) scheduler.publish(c);
  take_scores(c, r, first);
  if (c.draws > 0) return draw(c, r, first + size_t(c.scores), deltas);
  if (c.start + c.count < s.prompt_length || s.generated() > 0) return;  // there is more to compute
  s.finish = FinishReason::length;                                       // nothing is to be generated
  if (!s.logits_out) deltas.push_back({.request_id = s.request_id, .prompt_logprobs = std::move(s.prompt_scores), .finish = s.finish});
  end(s);
}

/// Gives a sequence its new token; where a prompt ends, also the samples that branch off there.
void Engine::Impl::draw(const Chunk& c, const Executor::Result& r, size_t first, std::vector<Delta>& deltas) {
  Sequence& s = *c.sequence;
  const int32_t position = c.start + c.count;
  std::vector<std::shared_ptr<Sequence>> samples{c.sequence};
  for (int32_t i = 1; i < c.draws; i++) {
    auto child = std::make_shared<Sequence>(s);  // before s gets its own token
    child->index = i, child->forks = 0, child->table = {};
    child->tokens.resize(size_t(position)), child->prompt_scores.clear();
    samples.push_back(std::move(child));
  }
  s.forks = 0;
  generated += c.draws;
  for (size_t i = 0; i < samples.size(); i++) {
    Sequence& sample = *samples[i];
    Delta delta{.request_id = s.request_id, .index = sample.index};
    if (i == 0) delta.prompt_logprobs = std::move(s.prompt_scores);
    delta.logprobs.push_back(token_logprob(r, first + i, r.samples[first + i].id, s.params.logprobs));
    append(sample, position, r.samples[first + i], delta);
    deltas.push_back(std::move(delta));
    if (i > 0 && sample.finish == FinishReason::none) scheduler.fork(s, samples[i]);
    else if (i > 0) end(sample);
  }
  if (s.finish != FinishReason::none) end(s);
}

void Engine::Impl::count(double running) {
  const std::lock_guard lock(inbox);
  stats.tokens_generated = generated;
  stats.running = scheduler.running(), stats.waiting = scheduler.waiting();
  stats.preemptions = scheduler.preemptions(), stats.tokens_cached = scheduler.tokens_cached();
  stats.blocks_used = scheduler.pool().size() - scheduler.pool().available();
  stats.running_seconds += running;
  const GemmUse gemm = executor().backend().gemm_use();
  stats.gemm_hits = gemm.hits, stats.gemm_misses = gemm.misses;
}

}  // namespace neox
