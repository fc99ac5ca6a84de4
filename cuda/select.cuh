// SPDX-License-Identifier: Apache-2.0
// The order of a row's ids by probability, and where a filter cuts it. A CTA of kThreads threads works on one row; every function is called
// by all of them. Nothing is sorted but the last kThreads candidates for a cut: what is above them is counted, where a histogram and, if
// that is too coarse, bisection of the keys lead to.
#pragma once
#include <cstdint>

#include "backend/args.h"
#include "device.cuh"
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
__device__ inline Key key_of(float value, int32_t id) { return Key(ordered(value)) << 32 | ~uint32_t(id); }
__device__ inline Key first_of(float value) { return Key(ordered(value)) << 32; }  // the least key of a value
__device__ inline int32_t id_of(Key key) { return int32_t(~uint32_t(key)); }
__device__ inline float value_of(Key key) {
  const auto bits = uint32_t(key >> 32);
  return __uint_as_float(bits ^ (bits >> 31 ? 1u << 31 : ~0u));
}
/// A key to compare many ids with.
struct Mark {
  float value;
  uint32_t id;
  __device__ explicit Mark(Key key) : value(value_of(key)), id(uint32_t(id_of(key))) {}
  __device__ bool reached_by(float v, int32_t i) const { return v > value || (v == value && uint32_t(i) <= id); }
};

/// Calls f(first id, logits of four neighbouring ids) for this thread's share of a row; past its end they are -inf.
template <class Fn> __device__ void each_four(const float* logits, int32_t ids, Fn f) {
  const bool vector = reinterpret_cast<uintptr_t>(logits) % sizeof(float4) == 0;
#pragma unroll 2
  for (int32_t id = int32_t(threadIdx.x) * 4; id < ids; id += kThreads * 4) {
    float x[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    if (vector && id + 4 <= ids) {
      const float4 four = *reinterpret_cast<const float4*>(logits + id);
      x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    } else {
      for (int i = 0; i < min(4, ids - id); i++) x[i] = logits[id + i];
    }
    f(id, x);
  }
}
__device__ inline float largest(const float* logits, int32_t ids) {
  float most = -INFINITY;
  each_four(logits, ids, [&](int32_t, const float(&x)[4]) {
    for (float logit : x) most = fmaxf(most, logit);
  });
  return reduce(most, -INFINITY, [](float x, float y) { return fmaxf(x, y); });
}
/// Natural log of the sum of exponentials, of which `most` is the largest exponent.
__device__ inline double log_of_sum(const float* logits, int32_t ids, float most) {
  float sum = 0;  // of this thread's few
  each_four(logits, ids, [&](int32_t, const float(&x)[4]) {
    for (float logit : x) sum += exp2_of((logit - most) * kLog2e);
  });
  return double(most) + log(reduce_sum(double(sum)));
}

// What candidates are ordered by: their logits, or how near their surprise is to the entropy of all.
struct ByLogit {
  __device__ float value(float logit) const { return logit; }
  __device__ bool has(float) const { return true; }
};
struct ByTypicality {
  float most, scale;             // as Candidates'
  float entropy = 0, total = 0;  // total: log of the weights' sum
  float farthest = INFINITY;     // who is farther is no candidate
  __device__ float distance(float logit) const { return fabsf(total - (logit - most) * scale - entropy); }
  __device__ float value(float logit) const { return -distance(logit); }
  __device__ bool has(float logit) const { return distance(logit) <= farthest; }
};

/// The ids that are chosen from, and their weights exp((logit - most) * scale).
template <class Order> struct Candidates {
  const float* logits;
  int32_t ids;  // below which an id must be
  float most, scale;
  Key floor;  // by logits, above -inf: from here on
  Order order;
  Key first, end;  // by the order: all keys are in [first, end)

  __device__ float exponent(float logit) const { return (logit - most) * (scale * kLog2e); }  // of 2
  __device__ float weight(float logit) const { return exp2_of(exponent(logit)); }
  /// Calls f(id, logit, whether it is a candidate) for this thread's ids. Without a branch: most are, or most are not.
  template <class Fn> __device__ void each(Fn f) const {
    const Mark from(floor);
    each_four(logits, ids, [&](int32_t id, const float(&x)[4]) {
      for (int i = 0; i < 4; i++) f(id + i, x[i], from.reached_by(x[i], id + i) && order.has(x[i]));
    });
  }
};

/// How many candidates have at least some key, and their weights.
struct Above {
  int32_t count = 0;
  double weight = 0;
};
template <class Order> __device__ Above above(const Candidates<Order>& c, Key least) {
  const Mark from(least);
  int32_t count = 0;
  float weight = 0;  // of this thread's few
  c.each([&](int32_t id, float logit, bool in) {
    in = in && from.reached_by(c.order.value(logit), id);
    count += in, weight += in ? c.weight(logit) : 0.f;
  });
  return {reduce_sum(count), reduce_sum(double(weight))};
}
/// The same from two keys upwards, low <= high.
template <class Order> __device__ void above_both(const Candidates<Order>& c, Key low, Key high, Above& at_low, Above& at_high) {
  const Mark from(low), upper(high);
  int32_t between = 0, count = 0;
  float weight_between = 0, weight = 0;
  c.each([&](int32_t id, float logit, bool in) {
    const float value = c.order.value(logit), w = c.weight(logit);
    in = in && from.reached_by(value, id);
    const bool over = in && upper.reached_by(value, id);
    between += in && !over, weight_between += in && !over ? w : 0.f;
    count += over, weight += over ? w : 0.f;
  });
  at_high = {reduce_sum(count), reduce_sum(double(weight))};
  at_low = {at_high.count + reduce_sum(between), at_high.weight + reduce_sum(double(weight_between))};
}

/// A key, and what is from it upwards.
struct Place {
  Key key;
  Above above;
};

/// `low` is complete (see cut), `high` is not; where they are.
struct Bracket {
  Key low, high;
  Above at_low, at_high = {};

  __device__ Key middle(int step) const {
    if (step < kValueSteps) {
      const Key middle = first_of(0.5f * value_of(low) + 0.5f * value_of(high));
      if (middle > low && middle < high) return middle;
    }
    return low + (high - low) / 2;
  }
  /// Narrower, by a key between the two.
  template <class Complete> __device__ void take(Key key, const Above& at, Complete complete) {
    if (complete(at)) low = key, at_low = at;
    else high = key, at_high = at;
  }
};

/// Shared memory of a CTA.
union Scratch {
  Key sorted[kThreads];
  struct {
    uint32_t counts[kThreads], weights[kThreads];
  } ranges;
};

/// Sum over this thread's value and those of the threads before it.
__device__ inline double scan(double value) {
  __shared__ double totals[32];  // of each warp
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto within = [&](double v) {
    for (int apart = 1; apart < 32; apart *= 2) {
      const double before = __shfl_up_sync(~0u, v, apart);
      if (lane >= apart) v += before;
    }
    return v;
  };
  value = within(value);
  __syncthreads();
  if (lane == 31) totals[warp] = value;
  __syncthreads();
  const double before = within(totals[lane]);
  return value + (warp > 0 ? __shfl_sync(~0u, before, warp - 1) : 0.0);
}

/// Takes the bracket close to the cut in one reading of the row: adds counts and weights up in kThreads equal ranges of value. Weights are
/// rounded to integers, whose sum does not depend on the order; so where this points to is then counted exactly.
template <class Order, class Complete>
__device__ void close_in(const Candidates<Order>& c, Bracket& b, Complete complete, Scratch& scratch) {
  auto& [counts, weights] = scratch.ranges;
  const float least = value_of(b.low), scale = kThreads / (value_of(b.high) - least), unit = float(0x1p31 / b.at_low.weight);
  __syncthreads();  // what was there has been read
  counts[threadIdx.x] = weights[threadIdx.x] = 0;
  __syncthreads();
  const Mark from(b.low);
  c.each([&](int32_t id, float logit, bool in) {
    const float value = c.order.value(logit);
    if (!in || !from.reached_by(value, id)) return;
    const int range = min(max(int((value - least) * scale), 0), kThreads - 1);
    atomicAdd(&counts[range], 1u), atomicAdd(&weights[range], __float2uint_rn(c.weight(logit) * unit));
  });
  __syncthreads();
  const int range = kThreads - 1 - int(threadIdx.x);  // from the top
  const Above from_here{int32_t(scan(counts[range])), scan(weights[range]) / double(unit)};
  const int hit = reduce(complete(from_here) ? range : 0, 0, [](int x, int y) { return max(x, y); });
  const auto start = [&](int r) { return min(max(first_of(least + float(r) / scale), b.low), b.high); };
  const Key low = start(hit - 1), high = start(hit + 2);
  Above at_low, at_high;
  above_both(c, low, high, at_low, at_high);
  if (high < b.high) b.take(high, at_high, complete);
  if (low > b.low && low < b.high) b.take(low, at_low, complete);
}

/// Narrows the bracket down until `small` says so.
template <class Order, class Complete, class Small>
__device__ void narrow_down(const Candidates<Order>& c, Bracket& b, Complete complete, Small small, Scratch& scratch) {
  if (!small(b)) close_in(c, b, complete, scratch);
  for (int step = 0; !small(b); step++) {
    const Key middle = b.middle(step);
    b.take(middle, above(c, middle), complete);
  }
}

/// The keys in [low, high), at most kThreads, in falling order, to scratch.sorted. Returns how many.
template <class Order> __device__ int32_t sort_between(const Candidates<Order>& c, Key low, Key high, Scratch& scratch) {
  __shared__ int32_t count;
  Key* const sorted = scratch.sorted;
  __syncthreads();  // earlier readers of both are done
  if (threadIdx.x == 0) count = 0;
  sorted[threadIdx.x] = 0;
  __syncthreads();
  const Mark from(low), upper(high);
  c.each([&](int32_t id, float logit, bool in) {
    const float value = c.order.value(logit);
    if (in && from.reached_by(value, id) && !upper.reached_by(value, id)) sorted[atomicAdd(&count, 1)] = key_of(value, id);
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

/// The largest key such that the candidates from it upwards are complete(Above), which more of them may become but never cease to be;
/// c.first if not even all are. all: above(c, c.first).
template <class Order, class Complete>
__device__ Place cut(const Candidates<Order>& c, const Above& all, Complete complete, Scratch& scratch) {
  if (!complete(all)) return {c.first, all};
  Bracket b{.low = c.first, .high = c.end, .at_low = all};
  narrow_down(
      c, b, complete, [](const Bracket& now) { return now.at_low.count - now.at_high.count <= kThreads; }, scratch);
  const int32_t n = sort_between(c, b.low, b.high, scratch), i = int32_t(threadIdx.x);
  struct Last {
    double weight;
    int32_t i, pad;
  };
  const double weight = b.at_high.weight + scan(i < n ? double(c.weight(c.logits[id_of(scratch.sorted[i])])) : 0.0);
  const bool enough = i < n && complete(Above{b.at_high.count + i + 1, weight});
  // Sums of another order may leave even all just short of complete; then it is all.
  const Last last = reduce(Last{weight,
                                enough       ? i
                                : i >= n - 1 ? n - 1
                                             : kThreads,
                                0},
                           Last{0, kThreads, 0}, [](const Last& x, const Last& y) { return x.i <= y.i ? x : y; });
  return {scratch.sorted[last.i], {b.at_high.count + last.i + 1, last.weight}};
}

/// The n most probable candidates in falling order, n <= kThreads and at most as many as there are, to scratch.sorted.
/// all: above(c, c.first).
__device__ inline void list(const Candidates<ByLogit>& c, const Above& all, int32_t n, Scratch& scratch) {
  Bracket b{.low = c.first, .high = c.end, .at_low = all};
  narrow_down(
      c, b, [n](const Above& at) { return at.count >= n; }, [](const Bracket& now) { return now.at_low.count <= kThreads; }, scratch);
  sort_between(c, b.low, c.end, scratch);
}

}  // namespace neox::cuda
