// SPDX-License-Identifier: Apache-2.0
// How a warp of the decode kernel attends to a unit (16 positions of one head): from a ring of units on their way to shared memory, for the
// sizes that matter, or straight from memory, for any size and type. Each core keeps q, the weighted sum of v, the maximum and the weight.
#pragma once
#include "attention_common.cuh"

namespace neox::cuda::attn {

constexpr float kLowest = -1e30f;  // a maximum of nothing: differences to it stay finite

/// Positions of a single row's sequence that are read from its pages: all, or those of earlier steps.
__device__ inline int stored(const Args& p, int s) { return p.kv_len[s] - (p.appended ? 0 : 1); }

/// A unit among those that decode rows attend to, in the order (sequence, head, position).
struct Cursor {
  int s, h, u, n, row;  // sequence, head, unit, units of the sequence, its row
};
/// At least one for each decode row, though its first token has no older ones: units are how work is shared out.
__device__ inline int units_of(const Args& p, int s) {
  const int n = p.kv_len[s], rows = p.q_start[s + 1] - p.q_start[s];  // loaded together
  return rows == 1 && n > 0 ? max((n - (p.appended ? 0 : 1) + kUnit - 1) / kUnit, 1) : 0;
}
__device__ inline void advance(const Args& p, Cursor& c, int by) {
  c.u += by;
  while (c.u >= c.n && c.s < p.seqs) {
    c.u -= c.n;
    if (++c.h < p.heads) continue;
    c.h = 0;
    do c.s++;
    while (c.s < p.seqs && !(c.n = units_of(p, c.s)));
    if (c.s < p.seqs) c.row = p.q_start[c.s];
  }
}

__device__ inline float max_across(float x, int step) {  // lanes `step` apart
  for (int o = step; o < 32; o *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, o));
  return x;
}
__device__ inline float sum_across(float x, int step) {
  for (int o = step; o < 32; o *= 2) x += __shfl_xor_sync(~0u, x, o);
  return x;
}
/// Sums of N values over the lanes `Step` apart, shared out: put(i, sum) is called once for each value, by one of these lanes.
template <int Step, int N, class Put> __device__ void scatter_sums(const float (&x)[N], int first, bool mine, const Put& put) {
  if constexpr (Step == 32) {
#pragma unroll
    for (int i = 0; i < N; i++)
      if (mine) put(first + i, x[i]);
  } else {
    constexpr bool kHalves = N % 2 == 0;
    constexpr int kKept = kHalves ? N / 2 : N;
    const bool upper = threadIdx.x & Step;
    float kept[kKept];
#pragma unroll
    for (int i = 0; i < kKept; i++) {
      const float low = x[i], high = x[kHalves ? i + kKept : i];
      kept[i] = (upper ? high : low) + __shfl_xor_sync(~0u, upper ? low : high, Step);
    }
    scatter_sums<Step * 2>(kept, first + (kHalves && upper ? kKept : 0), mine && (kHalves || !upper), put);
  }
}

/// A warp's ring of units. From sm_90 on a unit comes by two bulk copies; before, lanes copy 16 bytes each.
template <int Bytes, int Stages> struct Ring {  // Bytes: of a unit's keys
  uint8_t* data;                                // [Stages][k, v][Bytes]
  uint64_t* full;                               // [Stages]
  int slot = 0, turn = 0;                       // slot: of the unit that is used next; turn: how often the ring was used up
  uint64_t policy = 0;

  __device__ Ring(uint8_t* d, uint64_t* f) : data(d), full(f) {
    if constexpr (kHopper) {
      asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
      if (threadIdx.x % 32 == 0) {
        for (int i = 0; i < Stages; i++) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(full + i)));
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      }
      __syncwarp();
    }
  }
  __device__ const uint8_t* unit() const { return data + slot * 2 * Bytes; }
  /// The lanes are done with the slot. Without `real` nothing is fetched.
  __device__ void fetch(int to_slot, const void* k, const void* v, bool real) {
    uint8_t* to = data + to_slot * 2 * Bytes;
    if constexpr (kHopper) {
      if (real && threadIdx.x % 32 == 0) fetch_bulk(to, shared_address(full + to_slot), k, v);
    } else {
      if (real)
        for (int i = int(threadIdx.x % 32) * 16; i < Bytes; i += 512) {
          copy16(to + i, static_cast<const uint8_t*>(k) + i, true);
          copy16(to + Bytes + i, static_cast<const uint8_t*>(v) + i, true);
        }
      copy_commit();
    }
  }
  __device__ void fetch_bulk(uint8_t* to, uint32_t barrier, const void* k, const void* v) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(2 * Bytes) : "memory");
    for (int i = 0; i < 2; i++)
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                       shared_address(to + i * Bytes)),
                   "l"(i ? v : k), "r"(Bytes), "r"(barrier), "l"(policy)
                   : "memory");
  }
  __device__ void wait() const {  // for the unit in `slot`
    if constexpr (kHopper) {
      asm volatile("{ .reg .pred p; W: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @p bra D; bra W; D: }" ::"r"(
                       shared_address(full + slot)),
                   "r"(turn & 1)
                   : "memory");
    } else {
      copy_wait<Stages - 1>();
      __syncwarp();
    }
  }
  __device__ void next() {
    if (++slot == Stages) slot = 0, turn++;
  }
};

/// 16-bit pages and a head size known when compiled. A group of kGroup lanes holds a position's vector, kTokens positions at once. Warps:
/// of one of two CTAs that share an SM.
template <class T, int D, int Warps, int Stages> struct RingCore {
  static constexpr int kWarps = Warps, kSlices = (D + 31) / 32, kBytes = kUnit * D * 2, kUnitBytes = 2 * kBytes;
  static constexpr int kGroup = D % 32 ? 2 : D > 128 ? 8 : 4, kTokens = 32 / kGroup, kVectors = D / 8 / kGroup, kPasses = kUnit / kTokens;
  static constexpr int shared_bytes(int warps) { return warps * Stages * (kUnitBytes + 8); }

  const Args& p;
  Ring<kBytes, Stages> ring;
  Cursor in;  // the unit that is fetched next
  int warps, page, asked, end, g, c;
  float q[kVectors][8], acc[kVectors][8], m, l;

  __device__ RingCore(const Args& a, uint8_t* memory, const Cursor& at, int begin, int stop)
      : p(a), ring(memory + threadIdx.x / 32 * Stages * kUnitBytes,
                   reinterpret_cast<uint64_t*>(memory + blockDim.x / 32 * Stages * kUnitBytes) + threadIdx.x / 32 * Stages),
        in(at), warps(blockDim.x / 32), asked(begin + int(threadIdx.x / 32)), end(stop), g(threadIdx.x % 32 / kGroup),
        c(threadIdx.x % kGroup) {
    advance(p, in, threadIdx.x / 32);
    look_up();
    // Units of earlier steps need not wait for the kernel before, which may have stored this step's rows in a sequence's last unit.
    int filled = 0;
    for (; filled < Stages && (asked >= end || !p.appended || in.u + 1 < in.n); filled++) fetch(filled);
    grid_wait();
    for (; filled < Stages; filled++) fetch(filled);
  }
  static __device__ int dim(const Args&) { return D; }
  __device__ int per_page() const { return p.block / kUnit; }
  __device__ void look_up() {  // long before the page is asked for
    if (asked < end) page = p.blocks[int64_t(in.s) * p.blocks_ld + (per_page() == 1 ? in.u : in.u / per_page())];
  }
  __device__ void fetch(int slot) {
    const bool real = asked < end;
    const int within = per_page() == 1 ? 0 : in.u % per_page() * kUnit;
    const int64_t at = real ? ((int64_t(page) * p.heads + in.h) * p.block + within) * D : 0;
    ring.fetch(slot, static_cast<const T*>(p.k) + at, static_cast<const T*>(p.v) + at, real);
    asked += warps;
    if (real) advance(p, in, warps), look_up();
  }
  // A lane's vectors lie kGroup apart in the row; rows of a multiple of 128 bytes clash in the banks, so odd groups take theirs in another
  // order.
  __device__ int column(int j) const { return ((D % 64 ? j : j ^ (g & 1)) * kGroup + c) * 8; }

  __device__ void begin(const float* query) {
    m = kLowest, l = 0;
#pragma unroll
    for (int j = 0; j < kVectors; j++)
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const float4 x = *reinterpret_cast<const float4*>(query + column(j) + e);
        q[j][e] = x.x, q[j][e + 1] = x.y, q[j][e + 2] = x.z, q[j][e + 3] = x.w;
        acc[j][e] = acc[j][e + 1] = acc[j][e + 2] = acc[j][e + 3] = 0;
      }
  }
  __device__ float dot(const T* k) const {
    float d0 = 0, d1 = 0;
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
      float x[8];
      widen8<T>(*reinterpret_cast<const uint4*>(k + column(j)), x);
#pragma unroll
      for (int e = 0; e < 8; e += 2) d0 += x[e] * q[j][e], d1 += x[e + 1] * q[j][e + 1];
    }
    d0 += d1;
#pragma unroll
    for (int o = 1; o < kGroup; o *= 2) d0 += __shfl_xor_sync(~0u, d0, o);
    return d0;
  }
  __device__ void unit(const Cursor&, int u, int n) {  // unit u of a head with n positions
    ring.wait();
    const T* k = reinterpret_cast<const T*>(ring.unit());
    float score[kPasses], top = m;
#pragma unroll
    for (int t = 0; t < kPasses; t++) {
      const int token = t * kTokens + g;
      const float s = dot(k + token * D);
      score[t] = u * kUnit + token < n ? s : -INFINITY;
      top = fmaxf(top, score[t]);
    }
    if (top > m) rescale(top);
#pragma unroll
    for (int t = 0; t < kPasses; t++) {
      const int token = t * kTokens + g;
      const float w = exp2_of(score[t] - m);
      const bool valid = u * kUnit + token < n;
      l += w;
#pragma unroll
      for (int j = 0; j < kVectors; j++) {
        uint4 raw = *reinterpret_cast<const uint4*>(k + (kUnit + token) * D + column(j));
        if (!valid) raw = {};  // slots not yet written may hold anything
        float x[8];
        widen8<T>(raw, x);
#pragma unroll
        for (int e = 0; e < 8; e++) acc[j][e] += w * x[e];
      }
    }
    __syncwarp();
    fetch(ring.slot);
    ring.next();
  }
  __device__ void rescale(float top) {
    const float f = exp2_of(m - top);
    m = top, l *= f;
#pragma unroll
    for (int j = 0; j < kVectors; j++)
#pragma unroll
      for (int e = 0; e < 8; e++) acc[j][e] *= f;
  }
  __device__ void end_head(float* sums) {  // [D + 2]
    const float top = max_across(m, kGroup), f = exp2_of(m - top);
    const float weight = sum_across(l * f, kGroup);
    float x[kVectors * 8];
#pragma unroll
    for (int j = 0; j < kVectors; j++)
#pragma unroll
      for (int e = 0; e < 8; e++) {
        float a = acc[j][e];
        if (D % 64 == 0 && g & 1) a = acc[kVectors > 1 ? j ^ 1 : j][e];  // memory order, the same in every group
        x[j * 8 + e] = a * f;
      }
    scatter_sums<kGroup>(x, 0, true, [&](int i, float sum) { sums[(i / 8 * kGroup + c) * 8 + i % 8] = sum; });
    if (threadIdx.x % 32 == 0) sums[D] = top, sums[D + 1] = weight;
  }
};

/// Pages of any type, any head size up to 32 Slices: a lane holds 8 elements, a group of 2 to 32 lanes a position. K and v go straight into
/// registers.
template <class T, int Slices> struct PlainCore {
  static constexpr int kWarps = Slices > 4 ? 4 : 8, kSlices = Slices, kUnitBytes = 32 * kUnit * Slices * sizeof(T), kBatch = 2;
  static constexpr int shared_bytes(int) { return 0; }

  const Args& p;
  int group, tokens, g, c;  // lanes of a position, positions at once; this lane's place
  bool real;
  float q[8], acc[8], m, l;

  __device__ PlainCore(const Args& a, uint8_t*, const Cursor&, int, int) : p(a), group(2) {
    while (group * 8 < p.head_dim) group *= 2;
    tokens = 32 / group, g = int(threadIdx.x % 32) / group, c = int(threadIdx.x % 32) % group, real = c * 8 < p.head_dim;
    grid_wait();
  }
  static __device__ int dim(const Args& p) { return p.head_dim; }
  __device__ void begin(const float* query) {
    m = kLowest, l = 0;
    for (int e = 0; e < 8; e++) q[e] = real ? query[c * 8 + e] : 0, acc[e] = 0;
  }
  static __device__ void widen(const Pack<T, 8>& raw, float (&x)[8]) {
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = cuda::widen(raw.v[e]);
  }
  __device__ void unit(const Cursor& at, int u, int n) {
    const int64_t from = unit_at(p, at.s, at.h, u * kUnit) + c * 8;
    const int count = min(kUnit, n - u * kUnit);
    for (int t = 0; t < count; t += kBatch * tokens) {
      Pack<T, 8> k[kBatch] = {}, v[kBatch] = {};
      float score[kBatch], top = m;
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        const int token = t + b * tokens + g;
        if (token < count && real) {
          k[b] = *reinterpret_cast<const Pack<T, 8>*>(static_cast<const T*>(p.k) + from + token * p.head_dim);
          v[b] = *reinterpret_cast<const Pack<T, 8>*>(static_cast<const T*>(p.v) + from + token * p.head_dim);
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        float d = 0, x[8];
        widen(k[b], x);
        for (int e = 0; e < 8; e++) d += x[e] * q[e];
        for (int o = 1; o < group; o *= 2) d += __shfl_xor_sync(~0u, d, o);
        score[b] = t + b * tokens + g < count ? d : -INFINITY;
        top = fmaxf(top, score[b]);
      }
      const float f = exp2_of(m - top);
      m = top, l *= f;
      for (int e = 0; e < 8; e++) acc[e] *= f;
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        const float w = exp2_of(score[b] - m);
        float x[8];
        widen(v[b], x);
        l += w;
        for (int e = 0; e < 8; e++) acc[e] += w * x[e];
      }
    }
  }
  __device__ void end_head(float* sums) {
    const float top = max_across(m, group), f = exp2_of(m - top), weight = sum_across(l * f, group);
    for (int e = 0; e < 8; e++) {
      const float a = sum_across(acc[e] * f, group);
      if (g == 0 && real) sums[c * 8 + e] = a;
    }
    if (threadIdx.x % 32 == 0) sums[p.head_dim] = top, sums[p.head_dim + 1] = weight;
  }
};

}  // namespace neox::cuda::attn
