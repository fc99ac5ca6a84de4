// SPDX-License-Identifier: Apache-2.0
// What the attention kernels share: their argument, values of any type, and the search for a CTA's piece of work.
#pragma once
#include <algorithm>
#include <cstdint>

#include "attention.h"
#include "check.h"
#include "device.cuh"
#include "types.cuh"

namespace neox::cuda::attn {

constexpr int kUnit = 16;        // positions of one head that decode shares out; a page holds a whole number of them
constexpr int kMaxShares = 512;  // CTAs of a decode kernel at most
constexpr int kCounts = kMaxShares + 1;

/// One call, as kernels get it. Pages: [pages][heads][block][head_dim].
struct Args {
  void* qkv;  // [tokens, heads * 3 * head_dim]
  void* out;  // [tokens, heads * head_dim]
  void *k, *v;
  const int32_t *pos, *slot, *q_start, *kv_len, *blocks;  // as in Step
  const float* cos_sin;                                   // as in Rope
  float* partial;                                         // [kMaxShares][2][head_dim + 2] sums, maximum (base 2), weight
  unsigned* arrived;                                      // [kMaxShares] how many of a cut head's partials are there; 0 between calls
  unsigned* dealt;  // tiles that CTAs of a prefill kernel have taken beyond their first; 0 between calls
  int64_t qkv_ld, out_ld;
  int32_t tokens, seqs, blocks_ld, half, heads, head_dim, block;
  float scale;
  DType act, kv;
  bool qkv_aligned, out_aligned;                  // rows at multiples of 16 bytes
  bool appended = false;                          // single rows are rotated and stored already: decode does not do it
  int32_t least_rows = 2, most_rows = INT32_MAX;  // of a sequence in this step, for the prefill kernels to take it
};

void rotate_append(const Args& args, const Stream& stream);
void decode(const Args& args, const Stream& stream);
void prefill(const Args& args, int32_t max_q, const Stream& stream);
/// Sequences' single rows, by the arithmetic of prefill: a row's result is the same to the bit in a prompt and alone.
void decode_as_prefill(Args args, const Stream& stream);
void prefill_f16(const Args& args, int32_t max_q, const Stream& stream);
void prefill_bf16(const Args& args, int32_t max_q, const Stream& stream);
void prefill_unfused(const AttentionArgs& call, const Args& args, const Unfused& how, const Stream& stream);
void prefill_plain(const Args& args, int32_t max_q, const Stream& stream);

using cuda::widen;
__device__ inline float2 widen(__half2 x) { return __half22float2(x); }
__device__ inline float2 widen(__nv_bfloat162 x) { return __bfloat1622float2(x); }
template <class T> struct Pair;
template <> struct Pair<__half> { using type = __half2; };
template <> struct Pair<__nv_bfloat16> { using type = __nv_bfloat162; };

__device__ inline uint32_t pack(float a, float b, __half) {
  const __half2 h = __floats2half2_rn(a, b);
  return reinterpret_cast<const uint32_t&>(h);
}
__device__ inline uint32_t pack(float a, float b, __nv_bfloat16) {
  const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
  return reinterpret_cast<const uint32_t&>(h);
}

/// Eight 16-bit values as they came from memory.
template <class T> __device__ inline void widen8(const uint4& raw, float (&x)[8]) {
  const auto* pairs = reinterpret_cast<const typename Pair<T>::type*>(&raw);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 f = widen(pairs[i]);
    x[2 * i] = f.x, x[2 * i + 1] = f.y;
  }
}

__device__ inline void load8(const void* p, DType t, int64_t i, bool aligned, float (&x)[8]) {
  if (!aligned) {
    for (int e = 0; e < 8; e++) x[e] = load(p, t, i + e);
  } else if (t == DType::f32) {
    const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(p) + i);
    const float4 a = from[0], b = from[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  } else {
    const uint4 raw = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(p) + i);
    if (t == DType::f16) widen8<__half>(raw, x);
    else widen8<__nv_bfloat16>(raw, x);
  }
}
__device__ inline void store8(void* p, DType t, int64_t i, bool aligned, const float (&x)[8]) {
  if (!aligned) {
    for (int e = 0; e < 8; e++) store(p, t, i + e, x[e]);
  } else if (t == DType::f32) {
    auto* to = reinterpret_cast<float4*>(static_cast<float*>(p) + i);
    to[0] = make_float4(x[0], x[1], x[2], x[3]), to[1] = make_float4(x[4], x[5], x[6], x[7]);
  } else {
    uint4 raw;
    for (int e = 0; e < 8; e++) store(&raw, t, e, x[e]);
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p) + i) = raw;
  }
}

/// Where sequence s's keys of head h from `position` on (a multiple of kUnit) lie, in elements; the next kUnit positions follow.
__device__ inline int64_t unit_at(const Args& p, int s, int h, int position) {
  const int page = p.blocks[int64_t(s) * p.blocks_ld + position / p.block];
  return ((int64_t(page) * p.heads + h) * p.block + position % p.block) * p.head_dim;
}

/// How many tiles of so many rows the sequences that are taken may have.
inline unsigned most_tiles(const Args& args, int32_t max_q, int rows) {
  const int64_t any = int64_t(args.tokens) / rows + std::min(args.seqs, args.tokens / args.least_rows);
  return unsigned(std::min<int64_t>(any, int64_t(args.seqs) * ((max_q + rows - 1) / rows)));
}

/// Sequences have count(s) pieces of work each. The CTA learns how many there are in all, and may ask whose the i-th is. scratch is shared
/// memory with room for a number from each warp and two more.
struct Shares {
  int total, first, chunk, mine;  // pieces; of this thread's sequences: the first, their number, and the pieces before them
  int holders;                    // how many sequences have any; about, where there are more sequences than threads

  template <int N, class Count> __device__ Shares(int seqs, int (&scratch)[N], Count count) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, threads = blockDim.x;
    const int most = (seqs + threads - 1) / threads;
    first = min(int(threadIdx.x) * most, seqs), chunk = min(most, seqs - first);
    int sum = 0;
    for (int i = 0; i < chunk; i++) sum += count(first + i);
    mine = sum;
    for (int o = 1; o < 32; o *= 2) {
      const int below = __shfl_up_sync(~0u, mine, o);
      if (lane >= o) mine += below;
    }
    if (lane == 31) scratch[warp] = mine;
    holders = __syncthreads_count(sum > 0) * most;
    total = 0;
    int before = 0;
    for (int w = 0; w < threads / 32; w++) {
      if (w == warp) before = total;
      total += scratch[w];
    }
    mine += before - sum;
  }
  /// The sequence of piece i < total and that piece's number in it, the same for all threads of the CTA. One call a kernel.
  template <int N, class Count> __device__ int2 find(int i, int (&scratch)[N], Count count) const {
    int left = i - mine;
    for (int s = 0; s < chunk && left >= 0; s++) {
      const int n = count(first + s);
      if (left < n) scratch[N - 2] = first + s, scratch[N - 1] = left;
      left -= n;
    }
    __syncthreads();
    return {scratch[N - 2], scratch[N - 1]};
  }
};

}  // namespace neox::cuda::attn
