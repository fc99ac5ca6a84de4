// SPDX-License-Identifier: Apache-2.0
// The best continuations of each row: by log-prob, after the edits of its request.
#include <cmath>

#include "cpu/cpu_backend_impl.h"
#include "cpu/logit_rows.h"

namespace neox {

void CpuBackend::beam_row(const BeamArgs& a, const BeamRow& r, Scratch& scratch) const {
  if (r.row < 0) return;
  const float* logits = a.logits.row(r.row - a.first);
  const int64_t vocab = a.logits.cols;
  a.out[r.out] = {};
  float most;
  if (!kernels_.largest(logits, vocab, &most)) {
    a.out[r.out].flags = kNonFinite;
    return;
  }
  const double log_total = double(most) + std::log(kernels_.exp_all(logits, vocab, most, 1.f, nullptr));
  if (r.top_n > 0) list_top(a, r, logits, log_total, scratch.ids);
  const float* scores = logits;  // in the same order
  if (r.edit >= 0) {
    std::vector<float>& logprobs = scratch.weights;
    for (int64_t id = 0; id < vocab; id++) logprobs[size_t(id)] = float(logits[id] - log_total);
    edit(a.edits, a.edits.rows[r.edit], logprobs.data(), scratch.edited.data(), vocab);
    scores = scratch.edited.data();
  }
  std::vector<int32_t>& ids = scratch.ids;
  list_best(scores, int32_t(std::min<int64_t>(r.limit, vocab)), r.count, ids);
  const auto n = ptrdiff_t(ids.size());
  float least = most;  // of the candidates' logits: only what is above it can count in a rank
  for (ptrdiff_t k = 0; k < n; k++) least = std::min(least, logits[ids[size_t(k)]]);
  std::vector<float> above;
  std::copy_if(logits, logits + vocab, std::back_inserter(above), [&](float x) { return x > least; });
  std::sort(above.begin(), above.end());
  for (ptrdiff_t k = 0; k < r.count; k++) {
    Candidate& c = a.candidates[r.first + k];
    c = {};
    if (k >= n) continue;
    c.id = ids[size_t(k)];
    c.logprob = float(logits[c.id] - log_total);
    c.score = r.edit < 0 ? c.logprob : scores[c.id];
    c.rank = int32_t(above.end() - std::upper_bound(above.begin(), above.end(), logits[c.id]));
  }
}

void CpuBackend::beam_candidates(const BeamArgs& a) {
  pool_.run([&](int thread) {
    for (int32_t i = thread; i < a.count; i += pool_.size())
      if (const int64_t row = a.rows[i].row - a.first; row < a.logits.rows && (row >= 0 || a.rows[i].row < 0))
        beam_row(a, a.rows[i], scratch_[size_t(thread)]);
  });
}

}  // namespace neox
