// SPDX-License-Identifier: Apache-2.0
// What sample and beam_candidates do alike with a row of logits, by all threads of a CTA.
#pragma once
#include "select.cuh"

namespace neox::cuda {

struct Survey {
  Key most;     // the greatest key of the row
  Key allowed;  // of those that may be drawn, 0 if none may
  float least;  // logit, but for banned ones
  int32_t finite;

  /// All that may be drawn, in the order of their logits.
  __device__ Candidates<ByLogit> candidates(const float* logits, int32_t limit, float scale) const {
    return {.logits = logits,
            .ids = limit,
            .most = value_of(allowed),
            .scale = scale,
            .floor = first_of(least),
            .order = {},
            .first = first_of(least),
            .end = allowed + 1};
  }
};

__device__ inline Survey survey(const float* logits, int32_t vocab, int32_t limit) {
  float most = -INFINITY, allowed = -INFINITY, least = INFINITY;  // this thread's ids rise, so that the first of equals stays
  int32_t most_id = 0, allowed_id = 0, finite = 1;
  each_four(logits, vocab, [&](int32_t id, const float(&x)[4]) {
    for (int i = 0; i < 4; i++) {
      finite &= fabsf(x[i]) < INFINITY || id + i >= vocab;
      if (x[i] > most) most = x[i], most_id = id + i;
      if (x[i] > allowed && id + i < limit) allowed = x[i], allowed_id = id + i;
      least = x[i] > -INFINITY ? fminf(least, x[i]) : least;
    }
  });
  const auto join = [](const Survey& x, const Survey& y) {
    return Survey{max(x.most, y.most), max(x.allowed, y.allowed), fminf(x.least, y.least), x.finite & y.finite};
  };
  return reduce(Survey{most > -INFINITY ? key_of(most, most_id) : 0, allowed > -INFINITY ? key_of(allowed, allowed_id) : 0, least, finite},
                Survey{0, 0, INFINITY, 1}, join);
}

__device__ inline int32_t rank_of(const float* logits, int32_t vocab, float logit) {
  int32_t above = 0;
  each_four(logits, vocab, [&](int32_t, const float(&x)[4]) {
    for (float other : x) above += other > logit;
  });
  return reduce_sum(above);
}

/// Of an args' row: its most probable ids, by the logits as they are.
template <class Args, class Row>
__device__ void list_top(const Args& a, const Row& r, Survey s, const float* logits, double log_total, Scratch& scratch) {
  const auto k = int32_t(threadIdx.x);
  s.allowed = s.most;
  const Candidates<ByLogit> all = s.candidates(logits, int32_t(a.logits.cols), 0);
  const Above there = above(all, all.first);
  const int32_t n = min(r.top_n, there.count);
  list(all, there, n, scratch);
  if (k >= r.top_n) return;
  const int64_t to = int64_t(r.out) * a.top_ld + k;
  a.top_ids[to] = k < n ? id_of(scratch.sorted[k]) : -1;
  a.top_logprobs[to] = k < n ? float(double(value_of(scratch.sorted[k])) - log_total) : -INFINITY;
}

}  // namespace neox::cuda
