// SPDX-License-Identifier: Apache-2.0
#include "engine/beam.h"

#include <algorithm>
#include <cmath>

namespace neox {

BeamSearch::BeamSearch(const SamplingParams& p, int32_t ends, int32_t most)
    : width_(p.beam_width), kept_(std::max(2, 1 + ends) * width_), most_(most),
      // Stop phrases end beams without being among `ends`, and diversity prefers lower ranks: twice the width has room for both.
      candidates_(ends + (p.stop.empty() && p.stop_phrases.empty() && p.beam_search_diversity_rate == 0 ? width_ : 2 * width_)),
      length_penalty_(p.length_penalty), diversity_(p.beam_search_diversity_rate), early_stopping_(p.early_stopping) {}

float BeamSearch::normalised(float sum, int32_t generated) const {
  return sum / float(std::pow(double(generated), double(length_penalty_)));
}

/// The best continuations of all beams, in the order of sum + diversity * (rank within its own beam, modulo the width).
std::vector<Continuation> BeamSearch::rank(std::span<const Candidate> candidates, std::span<const float> sums) const {
  struct Ranked {
    float key;
    Continuation continuation;
  };
  std::vector<Ranked> all;
  for (size_t beam = 0; beam < sums.size(); beam++)
    for (int32_t r = 0; r < candidates_; r++) {
      const Candidate& c = candidates[beam * size_t(candidates_) + size_t(r)];
      if (c.id < 0) break;
      const float sum = c.score + sums[beam];
      all.push_back({sum + diversity_ * float(r % width_), {.parent = int32_t(beam), .candidate = c, .sum = sum}});
    }
  std::stable_sort(all.begin(), all.end(), [](const Ranked& a, const Ranked& b) { return a.key > b.key; });
  std::vector<Continuation> out;
  for (size_t i = 0; i < std::min(all.size(), size_t(kept_)); i++) out.push_back(all[i].continuation);
  return out;
}

void BeamSearch::keep(Hypothesis hypothesis) {
  const auto better = [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; };
  finished_.insert(std::upper_bound(finished_.begin(), finished_.end(), hypothesis, better), std::move(hypothesis));
}

std::vector<Continuation> BeamSearch::advance(std::span<const Candidate> candidates, std::span<const float> sums, int32_t generated,
                                              const std::function<BeamEnd(const Continuation&)>& end_of,
                                              const std::function<Hypothesis(const Continuation&)>& finish) {
  const std::vector<Continuation> ranked = rank(candidates, sums);
  const bool closed = !improvable_ || (early_stopping_ == EarlyStopping::yes && full());
  std::vector<Continuation> running;
  for (size_t i = 0; i < ranked.size() && (i < size_t(width_) || int32_t(running.size()) < width_); i++) {
    BeamEnd end = end_of(ranked[i]);
    if (end.reason == FinishReason::none) {
      if (int32_t(running.size()) < width_) running.push_back(ranked[i]);
    } else if (i < size_t(width_) && !closed) {  // those further down stand in for what ends
      Hypothesis done = finish(ranked[i]);
      done.score = normalised(ranked[i].sum, generated), done.end = std::move(end);
      keep(std::move(done));
    }
  }
  if (int32_t(finished_.size()) > width_) finished_.resize(size_t(width_));
  // HuggingFace's guess at the best score that a running beam may still come to.
  const bool at_most = early_stopping_ == EarlyStopping::never && length_penalty_ > 0;
  const float best = running.empty() ? 0 : normalised(running[0].sum, at_most ? most_ : generated);
  improvable_ = improvable_ && (!full() || best > finished_.back().score);
  over_ = running.empty() || !improvable_ || (early_stopping_ == EarlyStopping::yes && full());
  return over_ ? std::vector<Continuation>{} : running;
}

}  // namespace neox
