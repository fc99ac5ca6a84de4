// SPDX-License-Identifier: Apache-2.0
// The best continuations of each row of logits [vocab] f32: one CTA a row, which it reads several times, out of the L2 cache.
// Floor: the row read once.
#include <cassert>

#include "cuda_backend.h"
#include "device.cuh"
#include "edit.h"
#include "logit_rows.cuh"

namespace neox {
namespace cuda {
namespace {

/// How many logits are above each of those of `candidates` [n <= kThreads], of which `least` is the least: few are above that one.
__device__ int32_t rank_among(const float* logits, int32_t vocab, int32_t n, float logit, float least) {
  __shared__ float value[kMaxCandidates];
  __shared__ int32_t rank[kMaxCandidates];
  const auto k = int32_t(threadIdx.x);
  __syncthreads();  // an earlier call's have been read
  if (k < n) value[k] = logit, rank[k] = 0;
  __syncthreads();
  each_four(logits, vocab, [&](int32_t, const float(&x)[4]) {
    for (float other : x)
      if (other > least)
        for (int32_t c = 0; c < n; c++)
          if (other > value[c]) atomicAdd(&rank[c], 1);
  });
  __syncthreads();
  return k < n ? rank[k] : 0;
}

__device__ int32_t beam_row(const BeamArgs& a, const BeamRow& r, const float* edited, Scratch& scratch) {
  const auto vocab = int32_t(a.logits.cols), limit = min(r.limit, vocab), k = int32_t(threadIdx.x);
  const int64_t row = r.row - a.first;
  const float* logits = static_cast<const float*>(a.logits.data) + row * a.logits.ld;
  Survey s = survey(logits, vocab, limit);
  if (!s.finite) return kNonFinite;
  const double log_total = log_of_sum(logits, vocab, value_of(s.most));
  if (r.top_n > 0) list_top(a, r, s, logits, log_total, scratch);
  const float* scores = r.edit < 0 ? logits : edited + row * vocab;
  if (r.edit >= 0) s = survey(scores, vocab, limit);
  int32_t n = 0;
  if (s.allowed > 0) {
    const Candidates<ByLogit> c = s.candidates(scores, limit, 0);
    const Above all = above(c, c.first);
    n = min(r.count, all.count);
    list(c, all, n, scratch);
  }
  const int32_t id = k < n ? id_of(scratch.sorted[k]) : -1;
  const float logit = k < n ? logits[id] : INFINITY;
  const float least = reduce(logit, INFINITY, [](float x, float y) { return fminf(x, y); });
  const int32_t rank = rank_among(logits, vocab, n, logit, least);
  if (k >= r.count) return 0;
  Candidate& c = a.candidates[r.first + k];
  if (k >= n) c = {};
  else c = {.id = id, .logprob = float(double(logit) - log_total), .rank = rank};
  c.score = k < n && r.edit >= 0 ? scores[id] : c.logprob;
  return 0;
}

__global__ __launch_bounds__(kThreads) void beam_kernel(const __grid_constant__ BeamArgs a, const float* edited) {
  __shared__ Scratch scratch;
  grid_launch();
  grid_wait();
  const BeamRow r = a.rows[blockIdx.x];
  if (r.row < a.first || r.row - a.first >= a.logits.rows) return;  // padding too
  const int32_t flags = beam_row(a, r, edited, scratch);
  if (threadIdx.x == 0) a.out[r.out] = {.flags = flags};
}

}  // namespace
}  // namespace cuda

void CudaBackend::beam_candidates(const BeamArgs& a) {
  if (a.count == 0) return;
  assert(a.top_ld <= cuda::kThreads);
  auto* edited = static_cast<float*>(edited_);
  cuda::edit(a.logits, a.edits, a.first, edited, stream_);
  cuda::launch({.name = "beam_candidates", .grid = unsigned(a.count), .block = cuda::kThreads, .stream = stream_}, cuda::beam_kernel, a,
               static_cast<const float*>(edited));
}

}  // namespace neox
