// SPDX-License-Identifier: Apache-2.0
// The order of a row's ids by probability, and where a filter cuts it. A CTA of kThreads threads works on one row; every function is called
// by all of them. Nothing is sorted but the last kThreads candidates for a cut: what is above them is counted, bisecting their keys.
#pragma once
#include <cstdint>

#include "backend/args.h"
#include "types.cuh"

namespace neox::cuda {

constexpr int kThreads = 1024;
constexpr int kValueSteps = 24;  // bisections by value before those by bits, which end in 64

/// An id's place in the order: a greater key is more probable, ties go to the lower id. Never 0.
using Key = uint64_t;
__device__ inline uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.f);  // -0 becomes 0
  return bits ^ (bits >> 31 ? ~0u : 1u << 31);
}
__device__ inline Key key_of(float logit, int32_t id) { return Key(ordered(logit)) << 32 | ~uint32_t(id); }
__device__ inline int32_t id_of(Key key) { return int32_t(~uint32_t(key)); }
__device__ inline float logit_of(Key key) {
  const auto bits = uint32_t(key >> 32);
  return __uint_as_float(bits ^ (bits >> 31 ? 1u << 31 : ~0u));
}

/// Calls f(first id, logits of four neighbouring ids, how many there are) for this thread's share of a row.
template <class Fn> __device__ void each_four(const float* logits, int32_t ids, Fn f) {
  const bool vector = reinterpret_cast<uintptr_t>(logits) % sizeof(float4) == 0;
  for (int32_t id = int32_t(threadIdx.x) * 4; id < ids; id += kThreads * 4) {
    const int n = min(4, ids - id);
    float x[4] = {};
    if (vector && n == 4) {
      const float4 four = *reinterpret_cast<const float4*>(logits + id);
      x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    } else {
      for (int i = 0; i < n; i++) x[i] = logits[id + i];
    }
    f(id, x, n);
  }
}
__device__ inline float largest(const float* logits, int32_t ids) {
  float most = -INFINITY;
  each_four(logits, ids, [&](int32_t, const float(&x)[4], int n) {
    for (int i = 0; i < n; i++) most = fmaxf(most, x[i]);
  });
  return reduce(most, -INFINITY, [](float x, float y) { return fmaxf(x, y); });
}
/// Natural log of the sum of exponentials, of which `most` is the largest exponent.
__device__ inline double log_of_sum(const float* logits, int32_t ids, float most) {
  float sum = 0;  // of this thread's few
  each_four(logits, ids, [&](int32_t, const float(&x)[4], int n) {
    for (int i = 0; i < n; i++) sum += expf(x[i] - most);
  });
  return double(most) + log(reduce_sum(double(sum)));
}

/// The ids that are chosen from, their weights exp((logit - most) * scale), and their order: by probability, or by how near their surprise
/// is to `entropy`.
struct Candidates {
  const float* logits;  // -inf: banned
  int32_t ids;          // below which an id must be
  float most, scale;
  Key first, end;    // all keys are in [first, end)
  Key floor = 0;     // in the order by probability: from here on
  float least = -1;  // weight
  bool typical = false;
  float entropy = 0, log_total = 0;  // with typical: of the weights

  __device__ float weight(float logit) const { return expf((logit - most) * scale); }
  __device__ bool runs(int32_t id, float logit) const { return logit > -INFINITY && key_of(logit, id) >= floor && weight(logit) >= least; }
  __device__ float distance(float logit) const { return fabsf(log_total - (logit - most) * scale - entropy); }
  __device__ Key key(int32_t id, float logit) const { return key_of(typical ? -distance(logit) : logit, id); }
};

/// Calls f(id, logit) for the candidates of this thread.
template <class Fn> __device__ void each(const Candidates& c, Fn f) {
  each_four(c.logits, c.ids, [&](int32_t id, const float(&x)[4], int n) {
    for (int i = 0; i < 4; i++)
      if (i < n && c.runs(id + i, x[i])) f(id + i, x[i]);
  });
}

/// How many candidates have at least some key, and their weights.
struct Above {
  int32_t count = 0;
  double weight = 0;
};
__device__ inline Above above(const Candidates& c, Key least) {
  int32_t count = 0;
  float weight = 0;  // of this thread's few
  each(c, [&](int32_t id, float logit) {
    if (c.key(id, logit) >= least) count++, weight += c.weight(logit);
  });
  return {reduce_sum(count), reduce_sum(double(weight))};
}

/// `low` is complete (see cut), `high` is not; where they are.
struct Bracket {
  Key low, high;
  Above at_low, at_high;

  __device__ Key middle(int step) const {
    if (step < kValueSteps) {
      const Key middle = Key(ordered(0.5f * logit_of(low) + 0.5f * logit_of(high))) << 32;
      if (middle > low && middle < high) return middle;
    }
    return low + (high - low) / 2;
  }
};
/// Bisects until `small` says so.
template <class Complete, class Small> __device__ void narrow_down(const Candidates& c, Bracket& b, Complete complete, Small small) {
  for (int step = 0; !small(b); step++) {
    const Key middle = b.middle(step);
    const Above at = above(c, middle);
    if (complete(at)) b.low = middle, b.at_low = at;
    else b.high = middle, b.at_high = at;
  }
}

/// The keys in [low, high), at most kThreads, in falling order; sorted: [kThreads] shared. Returns how many.
__device__ inline int32_t sort_between(const Candidates& c, Key low, Key high, Key* sorted) {
  __shared__ int32_t count;
  __syncthreads();  // earlier readers of both are done
  if (threadIdx.x == 0) count = 0;
  sorted[threadIdx.x] = 0;
  __syncthreads();
  each(c, [&](int32_t id, float logit) {
    if (const Key key = c.key(id, logit); key >= low && key < high) sorted[atomicAdd(&count, 1)] = key;
  });
  __syncthreads();
  const int32_t n = count;
  int width = 2;
  while (width < n) width *= 2;
  for (int run = 2; run <= width; run *= 2)  // bitonic
    for (int apart = run / 2; apart > 0; apart /= 2) {
      const int i = int(threadIdx.x), j = i ^ apart;
      if (i < j && j < width) {
        const Key a = sorted[i], b = sorted[j];
        if ((a < b) == ((i & run) == 0)) sorted[i] = b, sorted[j] = a;
      }
      __syncthreads();
    }
  return n;
}

/// Sum over this thread's value and those of the threads before it.
__device__ inline double scan(double value) {
  __shared__ double totals[32];  // of each warp
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int apart = 1; apart < 32; apart *= 2) {
    const double before = __shfl_up_sync(~0u, value, apart);
    if (lane >= apart) value += before;
  }
  __syncthreads();
  if (lane == 31) totals[warp] = value;
  __syncthreads();
  for (int w = 0; w < warp; w++) value += totals[w];
  return value;
}

/// The largest key such that the candidates from it upwards are complete(Above), which more of them may become but never cease to be;
/// c.first if not even all are.
template <class Complete> __device__ Key cut(const Candidates& c, Complete complete, Key* sorted) {
  Bracket b{.low = c.first, .high = c.end, .at_low = above(c, c.first)};
  if (!complete(b.at_low)) return c.first;
  narrow_down(c, b, complete, [](const Bracket& now) { return now.at_low.count - now.at_high.count <= kThreads; });
  const int32_t n = sort_between(c, b.low, b.high, sorted), i = int32_t(threadIdx.x);
  const double weight = scan(i < n ? double(c.weight(c.logits[id_of(sorted[i])])) : 0.0);
  const bool enough = i < n && complete({b.at_high.count + i + 1, b.at_high.weight + weight});
  const int32_t last = reduce(enough ? i : n - 1, n - 1, [](int32_t x, int32_t y) { return min(x, y); });
  return sorted[last];
}

/// The n most probable candidates in falling order, n <= kThreads and at most as many as there are.
__device__ inline void list(const Candidates& c, int32_t n, Key* sorted) {
  Bracket b{.low = c.first, .high = c.end, .at_low = above(c, c.first)};
  narrow_down(
      c, b, [n](const Above& at) { return at.count >= n; }, [](const Bracket& now) { return now.at_low.count <= kThreads; });
  sort_between(c, b.low, c.end, sorted);
}

}  // namespace neox::cuda
