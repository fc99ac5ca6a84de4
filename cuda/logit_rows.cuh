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
};

__device__ inline Survey survey(const float* logits, int32_t vocab, int32_t limit) {
  Survey s{.most = 0, .allowed = 0, .least = INFINITY, .finite = 1};
  each_four(logits, vocab, [&](int32_t id, const float(&x)[4], int n) {
    for (int i = 0; i < n; i++) {
      s.finite &= isfinite(x[i]);
      if (x[i] == -INFINITY) continue;
      s.least = fminf(s.least, x[i]);
      const Key key = key_of(x[i], id + i);
      s.most = max(s.most, key);
      if (id + i < limit) s.allowed = max(s.allowed, key);
    }
  });
  const auto join = [](const Survey& x, const Survey& y) {
    return Survey{max(x.most, y.most), max(x.allowed, y.allowed), fminf(x.least, y.least), x.finite & y.finite};
  };
  return reduce(s, Survey{0, 0, INFINITY, 1}, join);
}

__device__ inline int32_t rank_of(const float* logits, int32_t vocab, float logit) {
  int32_t above = 0;
  each_four(logits, vocab, [&](int32_t, const float(&x)[4], int n) {
    for (int i = 0; i < n; i++) above += x[i] > logit;
  });
  return reduce_sum(above);
}

/// Of an args' row: its most probable ids, by the logits as they are.
template <class Args, class Row>
__device__ void list_top(const Args& a, const Row& r, const Survey& s, const float* logits, double log_total, Key* sorted) {
  const auto vocab = int32_t(a.logits.cols), n = min(r.top_n, vocab), k = int32_t(threadIdx.x);
  list({.logits = logits, .ids = vocab, .first = Key(ordered(s.least)) << 32, .end = s.most + 1}, n, sorted);
  if (k >= r.top_n) return;
  const int64_t to = int64_t(r.out) * a.top_ld + k;
  a.top_ids[to] = k < n ? id_of(sorted[k]) : -1;
  a.top_logprobs[to] = k < n ? float(double(logit_of(sorted[k])) - log_total) : -INFINITY;
}

}  // namespace neox::cuda
