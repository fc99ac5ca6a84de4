// SPDX-License-Identifier: Apache-2.0
// Attention of decode rows: sequences with one row in this step. q [tokens, heads, 3, head_dim] is rotated, its k and v are in their pages.
// All (sequence, head, 16 positions) units, in this order, are cut into equal contiguous shares, one a CTA; its warps take units in turn
// and join their sums at the end of each (sequence, head). A head that is cut between CTAs is finished by the CTA that comes last, which
// adds the partial sums in their order, so the bits do not depend on who that is. Sums, maxima (base 2) and weights are f32. Floor: 2
// head_dim of the cache's type per position and head, read once; q, out and partial sums are small beside that. 4 head_dim operations per
// position and head: a hundredth of what the SMs could do meanwhile. Instantiations: 10 ring cores (f16, bf16 x 64, 80, 96, 128, 256) and 3
// plain cores (f32, f16, bf16).
#include <algorithm>

#include "attention_decode.cuh"

namespace neox::cuda::attn {
namespace {

/// A warp's view of the sum of n sums: a lane holds every 32nd element. The order is that of the sums, a batch at a time.
template <int Slices> struct Joined {
  static constexpr int kBatch = Slices > 4 ? 4 : 8;
  float r[Slices] = {}, weight = 0, top = kLowest;

  template <class At> __device__ Joined(int D, int n, At at) {  // at(i): the i-th sum, [D + 2] in any memory
    for (int i = 0; i < n; i += kBatch) {
      float tops[kBatch], weights[kBatch], x[kBatch][Slices], most = top;
#pragma unroll
      for (int b = 0; b < kBatch; b++) {  // all at once: their latency counts once
        const float* sums = at(min(i + b, n - 1));
        tops[b] = i + b < n ? sums[D] : kLowest, weights[b] = i + b < n ? sums[D + 1] : 0;
#pragma unroll
        for (int s = 0; s < Slices; s++) {
          const int d = s * 32 + int(threadIdx.x % 32);
          x[b][s] = i + b < n && d < D ? sums[d] : 0;
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; b++) most = fmaxf(most, tops[b]);
      const float old = exp2f(top - most);
      top = most, weight *= old;
#pragma unroll
      for (int s = 0; s < Slices; s++) r[s] *= old;
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        const float f = exp2f(tops[b] - most);
        weight += weights[b] * f;
#pragma unroll
        for (int s = 0; s < Slices; s++) r[s] += x[b][s] * f;
      }
    }
  }
};

/// One warp ends the share's piece of a head, units [at.u, stop) of it: writes the output, or a partial sum, or, where all others' are
/// there, the output from all partial sums.
template <class Core> __device__ void join(const Args& p, const float* sums, const Cursor& at, int stop, const Cut& cut, int start) {
  constexpr int kSlices = Core::kSlices;
  const int D = Core::dim(p), lane = threadIdx.x % 32, ld = D + 2;
  Joined<kSlices> sum(D, Core::kWarps, [&](int w) { return sums + w * ld; });
  if (at.u > 0 || stop < at.n) {
    float* mine = p.partial + (blockIdx.x * 2 + (at.u == 0)) * ld;
#pragma unroll
    for (int x = 0; x < kSlices; x++)
      if (const int d = x * 32 + lane; d < D) mine[d] = sum.r[x];
    if (lane == 0) mine[D] = sum.top, mine[D + 1] = sum.weight;
    const int first = cut.owner(start), others = cut.owner(start + at.n - 1) - first;
    if (arrive(p.arrived + first) != unsigned(others)) return;
    const float* parts = p.partial + first * 2 * ld;  // the first share's lies in its second place, the others' in their first
    sum = Joined<kSlices>(D, others + 1, [&](int i) { return parts + (i ? i * 2 : 1) * ld; });
  }
  const int64_t to = int64_t(p.q_start[at.s]) * p.out_ld + int64_t(at.h) * D;
#pragma unroll
  for (int x = 0; x < kSlices; x++)
    if (const int d = x * 32 + lane; d < D) store(p.out, p.act, to + d, sum.r[x] / sum.weight);
}

template <class Core> __device__ void load_q(const Args& p, const Cursor& at, float (&q)[Core::kSlices]) {
  const int64_t from = int64_t(p.q_start[at.s]) * p.qkv_ld + int64_t(at.h) * 3 * Core::dim(p);
#pragma unroll
  for (int x = 0; x < Core::kSlices; x++)
    if (const int d = x * 32 + int(threadIdx.x % 32); d < Core::dim(p)) q[x] = load(p.qkv, p.act, from + d) * (p.scale * kLog2e);
}

template <class Core> __global__ void __launch_bounds__(Core::kWarps * 32, 2) decode_kernel(const __grid_constant__ Args p) {
  constexpr int kWarps = Core::kWarps;
  extern __shared__ __align__(128) uint8_t memory[];  // ring, barriers, queries [warps][D], sums [2][warps][D + 2]
  __shared__ int scratch[kWarps + 2];
  const int D = Core::dim(p), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* query = reinterpret_cast<float*>(memory + Core::kRing + Core::kBarriers) + warp * D;
  float* sums = reinterpret_cast<float*>(memory + Core::kRing + Core::kBarriers) + kWarps * D;

  grid_launch();
  const auto count = [&](int s) { return units_of(p, s) * p.heads; };
  const Shares shares(p.seqs, scratch, count);
  const Cut cut{shares.total, min(int(gridDim.x), shares.total)};
  if (int(blockIdx.x) >= cut.shares) return grid_wait();
  const int begin = cut.begin(blockIdx.x), end = cut.begin(blockIdx.x + 1);
  const int2 place = shares.find(begin, scratch, count);
  Cursor at{place.x, 0, 0, units_of(p, place.x)};
  at.h = place.y / at.n, at.u = place.y % at.n;

  Core core(p, memory, at, begin, end);
  float q[Core::kSlices];
  load_q<Core>(p, at, q);
  int next = begin + warp;  // this warp's next unit
  for (int unit = begin, turn = 0; unit < end; turn++) {
    const int start = unit - at.u, stop = min(end, start + at.n), n = p.kv_len[at.s];
#pragma unroll
    for (int x = 0; x < Core::kSlices; x++)
      if (x * 32 + lane < D) query[x * 32 + lane] = q[x];
    __syncwarp();
    core.begin(query);
    Cursor then = at;
    if (stop < end) {
      advance(p, then, stop - unit);
      load_q<Core>(p, then, q);  // long before its turn
    }
    for (; next < stop; next += kWarps) core.unit(at, next - start, n);
    float* joined = sums + (turn & 1) * kWarps * (D + 2);
    core.end_head(joined + warp * (D + 2));
    __syncthreads();  // this half of sums is free again after the next one
    if (warp == turn % kWarps) join<Core>(p, joined, at, stop - start, cut, start);
    at = then, unit = stop;
  }
}

template <class Core> size_t shared_bytes(int head_dim) {
  return Core::kRing + Core::kBarriers + sizeof(float) * Core::kWarps * size_t(head_dim + 2 * (head_dim + 2));
}

/// False where the device has too little shared memory for this core.
template <class Core> bool decode_with(const Args& args, const Stream& stream) {
  const size_t bytes = shared_bytes<Core>(args.head_dim), room = 1024 + 64;  // an SM keeps 1 KB of each CTA's for itself
  if (bytes + 64 > size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))) return false;
  const int fit = int(size_t(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)) / (bytes + room));
  const int grid = std::min(attribute(cudaDevAttrMultiProcessorCount) * std::clamp(fit, 1, 2), kMaxShares);
  launch({.name = "attention, decode", .grid = unsigned(grid), .block = Core::kWarps * 32, .stream = stream, .shared = bytes},
         decode_kernel<Core>, args);
  return true;
}

template <class T> bool decode_ringed(const Args& args, const Stream& stream) {
  switch (args.head_dim) {
    case 64: return decode_with<RingCore<T, 64, 8, 3>>(args, stream);
    case 80: return decode_with<RingCore<T, 80, 8, 2>>(args, stream);
    case 96: return decode_with<RingCore<T, 96, 8, 2>>(args, stream);
    case 128: return decode_with<RingCore<T, 128, 6, 2>>(args, stream);
    case 256: return decode_with<RingCore<T, 256, 3, 2>>(args, stream);
    default: return false;
  }
}

}  // namespace

void decode(const Args& args, const Stream& stream) {
  if (args.kv == DType::f32) decode_with<PlainCore<float>>(args, stream);
  else if (args.kv == DType::f16) decode_ringed<__half>(args, stream) || decode_with<PlainCore<__half>>(args, stream);
  else decode_ringed<__nv_bfloat16>(args, stream) || decode_with<PlainCore<__nv_bfloat16>>(args, stream);
}

}  // namespace neox::cuda::attn
