// SPDX-License-Identifier: Apache-2.0
// What sample and beam_candidates do alike with a row of logits, by all threads of a CTA.
#pragma once
#include "check.h"
#include "device.cuh"
#include "select.cuh"

namespace neox::cuda {

/// Bytes of shared memory that hold a row of logits, or 0 if it is too long: it then stays where it is.
inline size_t row_bytes(int64_t vocab) {
  constexpr size_t kOther = 16 * 1024;  // what the kernels need besides
  const size_t bytes = size_t(vocab) * sizeof(float);
  return bytes + kOther <= size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) ? bytes : 0;
}
/// The row, brought to `shared` unless that is null: it is read many times.
__device__ inline const float* bring(const float* row, int32_t vocab, float* shared) {
  if (!shared) return row;
  __syncthreads();  // what was there has been read
  const int32_t whole = reinterpret_cast<uintptr_t>(row) % 16 == 0 ? vocab / 4 * 4 : 0;
  for (int32_t id = int32_t(threadIdx.x) * 4; id < whole; id += kThreads * 4) copy16(shared + id, row + id, true);
  copy_commit();
  for (int32_t id = whole + int32_t(threadIdx.x); id < vocab; id += kThreads) shared[id] = row[id];
  copy_wait<0>();
  __syncthreads();
  return shared;
}

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
