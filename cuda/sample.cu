// SPDX-License-Identifier: Apache-2.0
// Sampling: for each SampleRow one CTA over one row of logits [vocab] f32, which it reads several times, out of the L2 cache.
// HuggingFace's order of filters (temperature, top-k, top-p, min-p, typical-p), then a race of exponentials: the id with the largest p / E
// wins, E drawn for (seed, index, position, id). What the filters leave is a beginning of an order, so each is a cut (select.cuh).
// Floor: the row read once.
#include <cassert>
#include <cmath>

#include "base/philox.h"
#include "cuda_backend.h"
#include "device.cuh"
#include "edit.h"
#include "logit_rows.cuh"

namespace neox {
namespace cuda {
namespace {

struct Runner {
  double speed;  // p / E, up to a common factor
  int32_t id;
};
__device__ Runner faster(const Runner& a, const Runner& b) {
  return a.speed > b.speed || (a.speed == b.speed && uint32_t(a.id) < uint32_t(b.id)) ? a : b;
}

/// Draws among the candidates from key `cut` upwards; there is at least one.
__device__ int32_t race(const Candidates& c, const SampleRow& r, Key cut) {
  Runner best{-1, -1};
  each_four(c.logits, c.ids, [&](int32_t id, const float(&x)[4], int n) {
    float weight[4];
    bool any = false;
    for (int i = 0; i < 4; i++) {
      const bool runs = i < n && c.runs(id + i, x[i]) && c.key(id + i, x[i]) >= cut;
      weight[i] = runs ? c.weight(x[i]) : -1;
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

/// Puts the candidates in the order by |surprise - entropy|, and cuts it where they hold a share `mass`; all that are as near stay.
__device__ Key cut_typical(Candidates& c, float mass, float least_logit, Key* sorted) {
  float total = 0, weighted = 0;  // of this thread's few
  each(c, [&](int32_t, float logit) {
    const float w = c.weight(logit);
    total += w, weighted += w > 0 ? w * ((logit - c.most) * c.scale) : 0.f;
  });
  const double all = reduce_sum(double(total)), log_total = log(all);
  c.log_total = float(log_total), c.entropy = float(log_total - reduce_sum(double(weighted)) / all);
  c.typical = true;
  const float farthest = fmaxf(c.distance(least_logit), c.distance(c.most));
  c.first = Key(ordered(-farthest)) << 32, c.end = Key(ordered(0.f) + 1) << 32;
  const Key nearest = cut(
      c, [enough = double(mass) * all](const Above& at) { return at.count > 0 && at.weight >= enough; }, sorted);
  return nearest >> 32 << 32;
}

__device__ int32_t draw(Candidates c, const SampleRow& r, float least_logit, Key* sorted) {
  Key cut_at = c.first;
  if (r.top_k > 0)
    cut_at = c.first = cut(
        c, [k = r.top_k](const Above& at) { return at.count >= k; }, sorted);
  if (r.top_p < 1.f) {
    const double enough = double(r.top_p) * above(c, cut_at).weight;
    cut_at = cut(
        c, [enough](const Above& at) { return at.count > 0 && at.weight >= enough; }, sorted);
  }
  c.floor = cut_at, c.least = r.min_p;
  if (r.typical_p < 1.f) cut_at = cut_typical(c, r.typical_p, least_logit, sorted);
  return race(c, r, cut_at);
}

/// The result of one row, for every thread.
__device__ Sample sample_row(const SampleArgs& a, const SampleRow& r, const float* edited, Key* sorted) {
  const auto vocab = int32_t(a.logits.cols), limit = min(r.limit, vocab);
  const int64_t row = r.row - a.first;
  const float* logits = static_cast<const float*>(a.logits.data) + row * a.logits.ld;
  Survey s = survey(logits, vocab, limit);
  if (!s.finite) return {.flags = kNonFinite};
  const float most = logit_of(s.most);
  const double log_total = log_of_sum(logits, vocab, most);
  if (r.top_n > 0) list_top(a, r, s, logits, log_total, sorted);
  int32_t id = r.token;
  if (id < 0) {
    const float* drawn = r.edit < 0 ? logits : edited + row * vocab;
    if (r.edit >= 0) s = survey(drawn, vocab, limit);
    if (s.allowed == 0) return {.flags = kAllBanned};
    id = id_of(s.allowed);
    if (r.temperature > 0.f)
      // Relative to the most probable id that may be drawn, so that not all weights vanish where a banned one is far above.
      id = draw({.logits = drawn,
                 .ids = limit,
                 .most = logit_of(s.allowed),
                 .scale = 1.f / r.temperature,
                 .first = Key(ordered(s.least)) << 32,
                 .end = s.allowed + 1},
                r, s.least, sorted);
  }
  const float logit = logits[id];
  return {.id = id, .logprob = float(double(logit) - log_total), .rank = logit == most ? 0 : rank_of(logits, vocab, logit)};
}

__global__ __launch_bounds__(kThreads) void sample_kernel(const __grid_constant__ SampleArgs a, const float* edited) {
  __shared__ Key sorted[kThreads];
  grid_launch();
  grid_wait();
  const SampleRow row = a.rows[blockIdx.x];
  if (row.row < 0) return;
  const Sample sample = sample_row(a, row, edited, sorted);
  if (threadIdx.x == 0) a.out[row.out] = sample;
}

}  // namespace
}  // namespace cuda

void CudaBackend::sample(const SampleArgs& a) {
  if (a.count == 0) return;
  assert(a.top_ld <= cuda::kThreads);
  auto* edited = static_cast<float*>(edited_);
  cuda::edit(a.logits, a.edits, a.first, edited, stream_);
  cuda::launch({.name = "sample", .grid = unsigned(a.count), .block = cuda::kThreads, .stream = stream_}, cuda::sample_kernel, a,
               static_cast<const float*>(edited));
}

}  // namespace neox
