// SPDX-License-Identifier: Apache-2.0
// Beam search over one request, by HuggingFace's rules: which continuations go on, which are finished, and when it is over. It knows
// nothing of pages or steps.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/args.h"
#include "neox/engine.h"

namespace neox {

/// One way on from one beam.
struct Continuation {
  int32_t parent = 0;  // of the running beams
  Candidate candidate;
  float sum = 0;  // of the scores of all tokens, this one too
};

/// How a continuation ends, if it does.
struct BeamEnd {
  FinishReason reason = FinishReason::none;
  int32_t stop_token = -1;
  std::string stop_string = {};
};

struct Hypothesis {
  std::vector<int32_t> tokens;  // that were generated
  std::vector<std::shared_ptr<const TokenLogprob>> logprobs;
  float score = 0;  // sum / generated^length_penalty
  BeamEnd end;
};

class BeamSearch {
 public:
  /// `ends`: ids that end a beam. `most`: tokens to generate at most.
  BeamSearch(const SamplingParams& params, int32_t ends, int32_t most);

  /// How many candidates each beam must bring, so that nothing is missed: its `width` best that go on, and all that may end before them.
  int32_t candidates_per_beam() const { return candidates_; }

  /// One step. candidates: [beams, candidates_per_beam()]; sums: of the running beams; generated: tokens of a continuation. `end_of` says
  /// whether a continuation ends there, `finish` makes a hypothesis of one. Returns those that go on, best first; none once over().
  std::vector<Continuation> advance(std::span<const Candidate> candidates, std::span<const float> sums, int32_t generated,
                                    const std::function<BeamEnd(const Continuation&)>& end_of,
                                    const std::function<Hypothesis(const Continuation&)>& finish);
  bool over() const { return over_; }
  const std::vector<Hypothesis>& finished() const { return finished_; }  // best first, `width` at most

 private:
  std::vector<Continuation> rank(std::span<const Candidate> candidates, std::span<const float> sums) const;
  void keep(Hypothesis hypothesis);
  float normalised(float sum, int32_t generated) const;
  bool full() const { return int32_t(finished_.size()) == width_; }

  const int32_t width_, kept_, most_, candidates_;
  const float length_penalty_, diversity_;
  const EarlyStopping early_stopping_;
  std::vector<Hypothesis> finished_;
  bool improvable_ = true, over_ = false;
};

}  // namespace neox
