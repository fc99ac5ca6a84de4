// SPDX-License-Identifier: Apache-2.0
// What a step's candidates mean for the beams of a group.
#include <algorithm>

#include "base/check.h"
#include "engine/engine_impl.h"
#include "engine/text.h"

namespace neox {

/// chunks: all beams of one group, or the one that has the prompt; their samples begin at `first`, their candidates at `candidate`.
void Engine::Impl::advance_beams(std::span<const Chunk> chunks, const Executor::Result& r, size_t first, size_t candidate,
                                 std::vector<Delta>& deltas) {
  const std::shared_ptr<BeamGroup> group = chunks[0].sequence->group;
  const std::shared_ptr<Sequence> leader = group->leader.lock();
  group->flying = false;
  if (!leader || leader->finish != FinishReason::none) return;  // it ended while this was on its way
  std::vector<float> sums;
  size_t sample = first;
  for (const Chunk& c : chunks) {
    for (int32_t i = 0; i < c.samples(); i++)
      if (const Sample& x = r.samples[sample + size_t(i)]; x.flags != 0)
        return fail_request(*leader, explain(*c.sequence, c.start + c.count, x), deltas);
    scheduler.publish(c);
    take_scores(c, r, sample);
    sums.push_back(c.sequence->sum);
    sample += size_t(c.samples());
  }
  const size_t scores = size_t(chunks[0].scores);  // of the prompt, before the first candidates
  const auto told = [&](const Continuation& c) {
    TokenLogprob t = token_logprob(r, first + scores + size_t(c.parent), c.candidate.id, leader->params.logprobs);
    t.logprob = leader->params.logprobs_mode == LogprobsMode::raw ? c.candidate.logprob : c.candidate.score, t.rank = c.candidate.rank;
    return std::make_shared<const TokenLogprob>(std::move(t));
  };
  const auto beam = [&](const Continuation& c) -> const Sequence& { return *chunks[size_t(c.parent)].sequence; };
  const auto finish = [&](const Continuation& c) {
    const Sequence& s = beam(c);
    Hypothesis h{.tokens = {s.tokens.begin() + s.prompt_length, s.tokens.end()}, .logprobs = s.logprobs, .end = {}};
    h.tokens.push_back(c.candidate.id), h.logprobs.push_back(told(c));
    return h;
  };
  const int32_t generated = chunks[0].start + chunks[0].count + 1 - leader->prompt_length;
  const auto candidates = std::span(r.candidates).subspan(candidate, chunks.size() * size_t(chunks[0].candidates));
  const std::vector<Continuation> next = group->search.advance(
      candidates, sums, generated, [&](const Continuation& c) { return end_of(beam(c), c); }, finish);
  if (group->search.over()) return tell_hypotheses(*leader, deltas);
  std::vector<std::shared_ptr<const TokenLogprob>> made;
  for (const Continuation& c : next) made.push_back(told(c));
  continue_beams(*leader, next, made);
}

/// Gives the beams their new tokens, and the pages of those that they continue.
void Engine::Impl::continue_beams(Sequence& leader, const std::vector<Continuation>& next,
                                  const std::vector<std::shared_ptr<const TokenLogprob>>& made) {
  struct State {
    std::vector<int32_t> tokens;
    Processors processors;
    std::vector<std::shared_ptr<const TokenLogprob>> logprobs;
  };
  auto& beams = leader.group->beams;
  std::vector<State> states;
  std::vector<int32_t> parents;
  for (const Continuation& c : next) {
    const Sequence& parent = beams.empty() ? leader : *beams[size_t(c.parent)];
    states.push_back({parent.tokens, parent.processors, parent.logprobs});
    parents.push_back(c.parent);
  }
  while (beams.size() < next.size()) {
    beams.push_back(std::make_shared<Sequence>(leader));
    beams.back()->table = {}, beams.back()->prompt_scores.clear();
  }
  for (size_t i = 0; i < next.size(); i++) {
    Sequence& s = *beams[i];
    s.tokens = std::move(states[i].tokens), s.processors = std::move(states[i].processors), s.logprobs = std::move(states[i].logprobs);
    s.tokens.push_back(next[i].candidate.id), s.processors.see(next[i].candidate.id), s.logprobs.push_back(made[i]);
    s.sum = next[i].sum;
  }
  scheduler.branch(leader, parents);
}

/// What ends a continuation: its token, its length, or its text.
BeamEnd Engine::Impl::end_of(const Sequence& beam, const Continuation& c) const {
  std::vector<int32_t> tokens = beam.tokens;
  tokens.push_back(c.candidate.id);
  BeamEnd end = end_by_token(beam, tokens);
  const SamplingParams& p = beam.params;
  if (p.stop.empty() || int32_t(tokens.size()) - beam.prompt_length < p.min_tokens) return end;
  const std::string last = tail_of(std::span(tokens).last(1), SIZE_MAX, vocabulary);
  const std::string tail = tail_of(tokens, longest_of(p.stop) - 1 + last.size(), vocabulary);
  if (StopMatch match; find_stop(tail, p.stop, match, tail.size() - last.size()))
    end = {.reason = FinishReason::stop, .stop_string = p.stop[match.which]};
  return end;
}

/// The n best, as one delta each.
void Engine::Impl::tell_hypotheses(Sequence& leader, std::vector<Delta>& deltas) {
  const std::vector<Hypothesis>& finished = leader.group->search.finished();
  const auto told = std::min(int32_t(finished.size()), leader.params.n);
  for (int32_t i = 0; i < told; i++) {
    const Hypothesis& h = finished[size_t(i)];
    Delta delta{.request_id = leader.request_id, .index = i, .token_ids = h.tokens, .score = h.score};
    if (i == 0) delta.prompt_logprobs = std::move(leader.prompt_scores);
    for (const auto& logprob : h.logprobs) delta.logprobs.push_back(*logprob);
    std::string text = tail_of(h.tokens, SIZE_MAX, vocabulary);
    // The last token has completed it, so it ends with the text or inside of that token; it may have begun in the prompt.
    if (const std::string& stop = h.end.stop_string; !stop.empty()) {
      const std::string before = tail_of(std::span(leader.tokens).first(size_t(leader.prompt_length)), stop.size() - 1, vocabulary);
      const std::string last = tail_of(std::span(h.tokens).last(1), SIZE_MAX, vocabulary);
      if (StopMatch match; find_stop(before + text, {stop}, match, before.size() + text.size() - last.size()))
        text.resize(std::max(leader.params.include_stop_str_in_output ? match.end : match.begin, before.size()) - before.size());
    }
    delta.text = take_characters(text, true);
    delta.finish = h.end.reason, delta.stop_token = h.end.stop_token, delta.stop_string = h.end.stop_string;
    generated += int64_t(h.tokens.size());
    deltas.push_back(std::move(delta));
  }
  for (int32_t i = told; i < leader.params.n; i++)
    deltas.push_back({.request_id = leader.request_id,
                      .index = i,
                      .finish = FinishReason::error,
                      .error = concat("every token is banned at a position of request ", leader.request_id, " with ", told,
                                      " hypotheses finished, of n ", leader.params.n),
                      .error_kind = ErrorKind::invalid});
  leader.finish = FinishReason::stop;
  end(leader);
}

}  // namespace neox
