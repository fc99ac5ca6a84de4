// SPDX-License-Identifier: Apache-2.0
// Sampling: for each SampleRow one CTA over one row of logits [vocab] f32, which it reads several times, out of the L2 cache.
// HuggingFace's order of filters (temperature, top-k, top-p, min-p), then a race of exponentials: the id with the largest p / E wins, E
// drawn for (seed, index, position, id). What the filters leave is a beginning of the order by probability, so each is a cut (select.cuh).
// Floor: the row read once.
#include <cassert>
#include <cmath>

#include "base/philox.h"
#include "cuda_backend.h"
#include "device.cuh"
#include "select.cuh"

namespace neox {
namespace cuda {
namespace {

struct Survey {
  Key most;     // the greatest key of the row
  Key allowed;  // of those that may be drawn, 0 if none may
  float least;  // logit
  int32_t finite;
};

__device__ Survey survey(const SampleArgs& a, const SampleRow& r, const float* logits) {
  Survey s{.most = 0, .allowed = 0, .least = INFINITY, .finite = 1};
  const Candidates drawn{.logits = logits, .bans = a.bans + r.bans_begin, .bans_end = a.bans + r.bans_end};
  each_four(logits, int32_t(a.logits.cols), [&](int32_t id, const float(&x)[4], int n) {
    for (int i = 0; i < n; i++) {
      s.finite &= isfinite(x[i]);
      s.least = fminf(s.least, x[i]);
      const Key key = key_of(x[i], id + i);
      s.most = max(s.most, key);
      if (id + i < r.limit && drawn.allowed(id + i)) s.allowed = max(s.allowed, key);
    }
  });
  const auto join = [](const Survey& x, const Survey& y) {
    return Survey{max(x.most, y.most), max(x.allowed, y.allowed), fminf(x.least, y.least), x.finite & y.finite};
  };
  return reduce(s, Survey{0, 0, INFINITY, 1}, join);
}

__device__ double log_of_sum(const float* logits, int32_t vocab, float most) {
  float sum = 0;  // of this thread's few
  each_four(logits, vocab, [&](int32_t, const float(&x)[4], int n) {
    for (int i = 0; i < n; i++) sum += expf(x[i] - most);
  });
  return double(most) + log(reduce_sum(double(sum)));
}

__device__ int32_t rank_of(const float* logits, int32_t vocab, float logit) {
  int32_t above = 0;
  each_four(logits, vocab, [&](int32_t, const float(&x)[4], int n) {
    for (int i = 0; i < n; i++) above += x[i] > logit;
  });
  return reduce_sum(above);
}

struct Runner {
  double speed;  // p / E, up to a common factor
  int32_t id;
};
__device__ Runner faster(const Runner& a, const Runner& b) {
  return a.speed > b.speed || (a.speed == b.speed && uint32_t(a.id) < uint32_t(b.id)) ? a : b;
}

/// Draws among the candidates from key `cut` upwards whose weight is `least` or more; there is at least one.
__device__ int32_t race(const Candidates& c, const SampleRow& r, Key cut, float least) {
  Runner best{-1, -1};
  each_four(c.logits, c.ids, [&](int32_t id, const float(&x)[4], int n) {
    float weight[4];
    bool any = false;
    for (int i = 0; i < 4; i++) {
      weight[i] = c.weight(x[i]);
      const bool runs = i < n && key_of(x[i], id + i) >= cut && weight[i] >= least && c.allowed(id + i);
      if (!runs) weight[i] = -1;
      any |= runs;
    }
    if (!any) return;
    const std::array<uint32_t, 4> words = philox({uint32_t(id / 4), uint32_t(r.position), uint32_t(r.index), 0}, r.seed_lo, r.seed_hi);
    for (int i = 0; i < 4; i++) {
      const double u = (words[size_t(i)] + 0.5) * 0x1p-32, w = weight[i];
      if (w < 0 || (1 - u) * best.speed > w) continue;  // E = -log u >= 1 - u: cannot win, and the logarithm is saved
      best = faster(best, {w / -log(u), id + i});
    }
  });
  return reduce(best, Runner{-1, -1}, faster).id;
}

__device__ int32_t draw(Candidates c, const SampleRow& r, Key* sorted) {
  Key cut_at = c.first;
  if (r.top_k > 0)
    cut_at = c.first = cut(
        c, [k = r.top_k](const Above& at) { return at.count >= k; }, sorted);
  if (r.top_p < 1.f) {
    const double enough = double(r.top_p) * above(c, cut_at).weight;
    cut_at = cut(
        c, [enough](const Above& at) { return at.count > 0 && at.weight >= enough; }, sorted);
  }
  return race(c, r, cut_at, r.min_p);
}

__device__ void list_top(const SampleArgs& a, const SampleRow& r, const Survey& s, const float* logits, double log_total, Key* sorted) {
  const auto vocab = int32_t(a.logits.cols), n = min(r.top_n, vocab), k = int32_t(threadIdx.x);
  list({.logits = logits, .ids = vocab, .first = Key(ordered(s.least)) << 32, .end = s.most + 1}, n, sorted);
  if (k >= r.top_n) return;
  const int64_t to = int64_t(r.out) * a.top_ld + k;
  a.top_ids[to] = k < n ? id_of(sorted[k]) : -1;
  a.top_logprobs[to] = k < n ? float(double(logit_of(sorted[k])) - log_total) : -INFINITY;
}

/// The result of one row, for every thread.
__device__ Sample sample_row(const SampleArgs& a, const SampleRow& r, Key* sorted) {
  const auto vocab = int32_t(a.logits.cols);
  const float* logits = static_cast<const float*>(a.logits.data) + (r.row - a.first) * a.logits.ld;
  const Survey s = survey(a, r, logits);
  if (!s.finite) return {.flags = kNonFinite};
  const float most = logit_of(s.most);
  const double log_total = log_of_sum(logits, vocab, most);
  if (r.top_n > 0) list_top(a, r, s, logits, log_total, sorted);
  if (r.token < 0 && s.allowed == 0) return {.flags = kAllBanned};
  int32_t id = r.token >= 0 ? r.token : id_of(s.allowed);
  if (r.token < 0 && r.temperature > 0.f)
    // Relative to the most probable id that may be drawn, so that not all weights vanish where a banned one is far above.
    id = draw({.logits = logits,
               .ids = min(r.limit, vocab),
               .bans = a.bans + r.bans_begin,
               .bans_end = a.bans + r.bans_end,
               .most = logit_of(s.allowed),
               .scale = 1.f / r.temperature,
               .first = Key(ordered(s.least)) << 32,
               .end = s.allowed + 1},
              r, sorted);
  const float logit = logits[id];
  return {.id = id, .logprob = float(double(logit) - log_total), .rank = logit == most ? 0 : rank_of(logits, vocab, logit)};
}

__global__ __launch_bounds__(kThreads) void sample_kernel(const __grid_constant__ SampleArgs a) {
  __shared__ Key sorted[kThreads];
  grid_launch();
  grid_wait();
  const SampleRow row = a.rows[blockIdx.x];
  if (row.row < 0) return;
  const Sample sample = sample_row(a, row, sorted);
  if (threadIdx.x == 0) a.out[row.out] = sample;
}

}  // namespace
}  // namespace cuda

void CudaBackend::sample(const SampleArgs& a) {
  if (a.count == 0) return;
  assert(a.top_ld <= cuda::kThreads);
  cuda::launch({.name = "sample", .grid = unsigned(a.count), .block = cuda::kThreads, .stream = stream_}, cuda::sample_kernel, a);
}

}  // namespace neox
