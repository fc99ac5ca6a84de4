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

/// log2(-log u) for the u of a word, but for a constant and within 1e-3.
__device__ float roughly_log_exponential(uint32_t word) {
  const float v = (float(~word) + 0.5f) * 0x1p-32f;                       // 1 - u
  const float u = v < 0.9995f ? 1 - v : (float(word) + 0.5f) * 0x1p-32f;  // where 1 - v would have few digits
  const float series = kLog2e * v * (1 + v * (1 / 2.f + v * (1 / 3.f + v * (1 / 4.f + v * (1 / 5.f)))));
  return log2_of(v < 0.125f ? series : -log2_of(u));
}

/// Calls f(id, logit, random word) for this thread's candidates.
template <class Order, class Fn> __device__ void each_runner(const Candidates<Order>& c, const SampleRow& r, Fn f) {
  const Mark from(c.floor);
  each_four(c.logits, c.ids, [&](int32_t id, const float(&x)[4]) {
    bool in[4], any = false;
    for (int i = 0; i < 4; i++) any |= in[i] = from.reached_by(x[i], id + i) && c.order.has(x[i]);
    if (!any) return;
    const std::array<uint32_t, 4> words = philox({uint32_t(id / 4), uint32_t(r.position), uint32_t(r.index), 0}, r.seed_lo, r.seed_hi);
    for (int i = 0; i < 4; i++)
      if (in[i]) f(id + i, x[i], words[size_t(i)]);
  });
}

/// Draws among the candidates; there is at least one. A first run finds roughly, and as a logarithm, how fast the winner is, so that speeds
/// in double are taken of those few alone that may have won.
template <class Order> __device__ int32_t race(const Candidates<Order>& c, const SampleRow& r) {
  const auto rough = [&](float logit, uint32_t word) { return c.exponent(logit) - roughly_log_exponential(word); };
  float fastest = -INFINITY;  // of this thread's
  each_runner(c, r, [&](int32_t, float logit, uint32_t word) { fastest = fmaxf(fastest, rough(logit, word)); });
  const float rival = reduce(fastest, -INFINITY, [](float x, float y) { return fmaxf(x, y); }) - 2e-3f;
  Runner best{-1, -1};
  if (fastest >= rival)
    each_runner(c, r, [&](int32_t id, float logit, uint32_t word) {
      if (rough(logit, word) >= rival) best = faster(best, {double(c.weight(logit)) / -log((word + 0.5) * 0x1p-32), id});
    });
  return reduce(best, Runner{-1, -1}, faster).id;
}

/// The candidates in the order by |surprise - entropy|, up to where they hold a share `mass`; all that are as near stay.
__device__ Candidates<ByTypicality> cut_typical(const Candidates<ByLogit>& from, float mass, Scratch& scratch) {
  int32_t count = 0;
  float total = 0, weighted = 0;  // of this thread's few
  from.each([&](int32_t, float logit, bool in) {
    const float w = in ? from.weight(logit) : 0.f;
    count += in, total += w, weighted += w > 0 ? w * ((logit - from.most) * from.scale) : 0.f;
  });
  const Above all{reduce_sum(count), reduce_sum(double(total))};
  const double log_total = log(all.weight);
  ByTypicality order{.most = from.most,
                     .scale = from.scale,
                     .entropy = float(log_total - reduce_sum(double(weighted)) / all.weight),
                     .total = float(log_total)};
  const float farthest = fmaxf(order.distance(value_of(from.floor)), order.distance(from.most));
  Candidates<ByTypicality> c{.logits = from.logits,
                             .ids = from.ids,
                             .most = from.most,
                             .scale = from.scale,
                             .floor = from.floor,
                             .order = order,
                             .first = first_of(-farthest),
                             .end = first_of(0.f) + (Key(1) << 32)};
  const double enough = double(mass) * all.weight;
  c.order.farthest = -value_of(cut(
                                   c, all, [enough](const Above& at) { return at.count > 0 && at.weight >= enough; }, scratch)
                                   .key);
  return c;
}

__device__ int32_t draw(Candidates<ByLogit> c, const SampleRow& r, Scratch& scratch) {
  Place at{c.first, {}};
  if (r.top_k > 0 || r.top_p < 1.f) at.above = above(c, c.first);
  if (r.top_k > 0) {
    at = cut(
        c, at.above, [k = r.top_k](const Above& from) { return from.count >= k; }, scratch);
    c.floor = c.first = at.key;
  }
  if (r.top_p < 1.f) {
    const double enough = double(r.top_p) * at.above.weight;
    at = cut(
        c, at.above, [enough](const Above& from) { return from.count > 0 && from.weight >= enough; }, scratch);
  }
  if (r.min_p > 0.f) at.key = max(at.key, first_of(fminf(c.most + logf(r.min_p) / c.scale, c.most)));
  c.floor = c.first = at.key;
  return r.typical_p < 1.f ? race(cut_typical(c, r.typical_p, scratch), r) : race(c, r);
}

/// The result of one row, for every thread.
__device__ Sample sample_row(const SampleArgs& a, const SampleRow& r, const float* edited, Scratch& scratch) {
  const auto vocab = int32_t(a.logits.cols), limit = min(r.limit, vocab);
  const int64_t row = r.row - a.first;
  const float* logits = static_cast<const float*>(a.logits.data) + row * a.logits.ld;
  Survey s = survey(logits, vocab, limit);
  if (!s.finite) return {.flags = kNonFinite};
  const float most = value_of(s.most);
  const double log_total = log_of_sum(logits, vocab, most);
  if (r.top_n > 0) list_top(a, r, s, logits, log_total, scratch);
  int32_t id = r.token;
  float processed = 0;
  if (id < 0) {
    const float* drawn = r.edit < 0 ? logits : edited + row * vocab;
    if (r.edit >= 0) s = survey(drawn, vocab, limit);
    if (s.allowed == 0) return {.flags = kAllBanned};
    id = id_of(s.allowed);
    // Relative to the most probable id that may be drawn, so that not all weights vanish where a banned one is far above.
    const Candidates<ByLogit> c = s.candidates(drawn, limit, r.temperature > 0.f ? 1.f / r.temperature : 1.f);
    if (r.temperature > 0.f) id = draw(c, r, scratch);
    if (r.processed) processed = float(double(drawn[id] - c.most) * c.scale - log(above(c, c.first).weight));
  }
  const float logit = logits[id];
  return {.id = id,
          .logprob = r.processed && r.token < 0 ? processed : float(double(logit) - log_total),
          .rank = logit == most ? 0 : rank_of(logits, vocab, logit)};
}

__global__ __launch_bounds__(kThreads) void sample_kernel(const __grid_constant__ SampleArgs a, const float* edited) {
  __shared__ Scratch scratch;
  grid_launch();
  grid_wait();
  const SampleRow row = a.rows[blockIdx.x];
  if (row.row < 0) return;
  const Sample sample = sample_row(a, row, edited, scratch);
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
