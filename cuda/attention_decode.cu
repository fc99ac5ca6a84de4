// SPDX-License-Identifier: Apache-2.0
// Attention of decode rows: sequences with one row in this step. Rotates q and k, stores k and v in their pages and attends, in one kernel;
// with Args::appended the first two are done. qkv [tokens, heads, 3, head_dim].
// All (sequence, head, 16 positions) units, in this order, are cut into equal contiguous shares, one a CTA; its warps take units in turn
// and join their sums at the end of each (sequence, head). The share that holds a head's end adds the new token, straight from qkv. A head
// that is cut between CTAs is finished by the CTA that comes last, which adds the partial sums in their order, so the bits do not depend on
// who that is. Sums, maxima (base 2) and weights are f32.
// Floor: 2 head_dim of the cache's type per position and head, read once; q, out and partial sums are small beside that. 4 head_dim
// operations per position and head: a hundredth of what the SMs could do meanwhile.
// Instantiations: 10 ring cores (f16, bf16 x 64, 80, 96, 128, 256) and 6 plain cores (f32, f16, bf16 x up to 128, 256).
#include <algorithm>

#include "attention_decode.cuh"

namespace neox::cuda::attn {
namespace {

/// Units in contiguous shares of one size; the last may be smaller.
struct Division {
  int total, size;

  /// heads: (sequence, head) pairs. Cut heads cost a join through memory, so that shares become whole heads where these are short, or
  /// little larger than shares of even work.
  __device__ Division(int units, int heads, int shares, int unit_bytes) : total(units) {
    constexpr int kWholeBytes = 200 << 10, kSlackBytes = 24 << 10;
    const auto parts = [](int a, int b) { return (a + b - 1) / b; };
    const int even = parts(units, shares), head = parts(units, heads);
    if (even < head) {
      size = max(even, parts(head, head * unit_bytes <= kWholeBytes ? 1 : head / even));
    } else {
      const int whole = parts(even, head) * head;
      size = (whole - even) * unit_bytes <= kSlackBytes ? whole : even;
    }
  }
  __device__ int begin(int share) const { return min(share * size, total); }
  __device__ int owner(int unit) const { return unit / size; }
};

/// A warp's view of the sum of n sums: a lane holds every 32nd element. The order is that of the sums, a batch at a time.
template <class Core> struct Joined {
  static constexpr int kSlices = Core::kSlices, kBatch = kSlices > 4 ? 4 : Core::kWarps + 1;
  float r[kSlices] = {}, weight = 0, top = kLowest;

  template <class At> __device__ Joined(int D, int n, At at) {  // at(i): the i-th sum, [D + 2] in any memory
    for (int i = 0; i < n; i += kBatch) {
      float tops[kBatch], weights[kBatch], x[kBatch][kSlices], most = top;
#pragma unroll
      for (int b = 0; b < kBatch; b++) {  // all at once: their latency counts once
        const float* sums = at(min(i + b, n - 1));
        tops[b] = i + b < n ? sums[D] : kLowest, weights[b] = i + b < n ? sums[D + 1] : 0;
#pragma unroll
        for (int s = 0; s < kSlices; s++) {
          const int d = s * 32 + int(threadIdx.x % 32);
          x[b][s] = i + b < n && d < D ? sums[d] : 0;
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; b++) most = fmaxf(most, tops[b]);
      const float old = exp2_of(top - most);
      top = most, weight *= old;
#pragma unroll
      for (int s = 0; s < kSlices; s++) r[s] *= old;
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        const float f = exp2_of(tops[b] - top);
        weight += weights[b] * f;
#pragma unroll
        for (int s = 0; s < kSlices; s++) r[s] += x[b][s] * f;
      }
    }
  }
};

/// Elements of the activations' type, as they came from memory.
__device__ inline float widen_bits(uint32_t bits, DType t) {
  if (t == DType::f16) return __half2float(__ushort_as_half(uint16_t(bits)));
  return __uint_as_float(t == DType::bf16 ? bits << 16 : bits);
}
__device__ inline float rounded(float x, DType t) {
  if (t == DType::f16) return __half2float(__float2half(x));
  return t == DType::bf16 ? __bfloat162float(__float2bfloat16(x)) : x;
}
/// f with the activations [tokens, heads, 3, head_dim] as words of their size; what it loads is widened later, so that loads are on their
/// way together.
template <class F> __device__ void with_words(const Args& p, const F& f) {
  if (p.act == DType::f32) f(static_cast<const uint32_t*>(p.qkv));
  else f(static_cast<const uint16_t*>(p.qkv));
}
/// Where a head's q, k or v (part 0, 1, 2) lies there.
template <class Core> __device__ int64_t place_of(const Args& p, const Cursor& at, int part) {
  return at.row * p.qkv_ld + (at.h * 3 + part) * Core::dim(p);
}

/// q of one head on its way to a warp, a lane holding every 32nd element, and what turns it.
template <class Core> struct Turned {
  static constexpr int kSlices = Core::kSlices;
  uint32_t x[kSlices], other[kSlices];
  float cosine[kSlices], sine[kSlices];

  static __device__ int at(int i) { return i * 32 + int(threadIdx.x % 32); }
  static __device__ int turning(const Args& p) { return p.appended ? 0 : 2 * p.half; }  // elements
  __device__ void load_angles(const Args& p, int row) {
    const float* table = p.cos_sin + int64_t(p.pos[row]) * 2 * p.half;
#pragma unroll
    for (int i = 0; i < kSlices; i++) {
      const int d = at(i);
      const bool low = d < p.half;
      cosine[i] = 1, sine[i] = 0;
      if (d < turning(p)) cosine[i] = table[low ? d : d - p.half], sine[i] = table[low ? d + p.half : d];
    }
  }
  template <class Word> __device__ void load(const Args& p, const Word* head) {  // [head_dim]
#pragma unroll
    for (int i = 0; i < kSlices; i++) {
      const int d = at(i);
      x[i] = d < Core::dim(p) ? head[d] : 0;
      other[i] = d < turning(p) ? head[d < p.half ? d + p.half : d - p.half] : 0;
    }
  }
  __device__ float value(const Args& p, int i) const {
    return widen_bits(x[i], p.act) * cosine[i] + widen_bits(other[i], p.act) * (at(i) < p.half ? -sine[i] : sine[i]);
  }
};

/// This step's k and v of a head, for the warp that stores them.
template <class Core> struct NewToken {
  Turned<Core> k;
  uint32_t v[Core::kSlices];
  int slot;

  __device__ NewToken(const Args& p, const Cursor& at) : slot(p.slot[at.row]) {
    with_words(p, [&](auto* words) {
      k.load(p, words + place_of<Core>(p, at, 1));
      const auto* from = words + place_of<Core>(p, at, 2);
#pragma unroll
      for (int i = 0; i < Core::kSlices; i++) v[i] = k.at(i) < Core::dim(p) ? from[k.at(i)] : 0;
    });
  }
  /// Stores them, turned as q was; sums [D + 2]: of this token alone.
  __device__ void append(const Args& p, const Cursor& at, const Turned<Core>& q, const float* query, float* sums) {
    const int D = Core::dim(p);
    const int64_t to = ((int64_t(slot / p.block) * p.heads + at.h) * p.block + slot % p.block) * D;
    float score = 0;
#pragma unroll
    for (int i = 0; i < Core::kSlices; i++) {
      const int d = k.at(i);
      if (d >= D) continue;
      k.cosine[i] = q.cosine[i], k.sine[i] = q.sine[i];
      const float key = rounded(rounded(k.value(p, i), p.act), p.kv), value = rounded(widen_bits(v[i], p.act), p.kv);
      store(p.k, p.kv, to + d, key), store(p.v, p.kv, to + d, value);
      score += key * query[d];  // key and value as they are read later
      sums[d] = value;
    }
    score = sum_across(score, 1);
    if (threadIdx.x % 32 == 0) sums[D] = score, sums[D + 1] = 1;
  }
};

/// One warp ends the share's piece of a head, units [at.u, stop) of it: writes the output, or a partial sum, or, where all others' are
/// there, the output from all partial sums.
template <class Core> __device__ void finish(const Args& p, Joined<Core> sum, const Cursor& at, int stop, const Division& cut, int start) {
  constexpr int kSlices = Core::kSlices;
  const int D = Core::dim(p), lane = threadIdx.x % 32, ld = D + 2;
  if (at.u > 0 || stop < at.n) {
    float* mine = p.partial + (blockIdx.x * 2 + (at.u == 0)) * ld;
#pragma unroll
    for (int x = 0; x < kSlices; x++)
      if (const int d = x * 32 + lane; d < D) mine[d] = sum.r[x];
    if (lane == 0) mine[D] = sum.top, mine[D + 1] = sum.weight;
    const int first = cut.owner(start), others = cut.owner(start + at.n - 1) - first;
    if (arrive(p.arrived + first) != unsigned(others)) return;
    if (lane == 0) p.arrived[first] = 0;
    const float* parts = p.partial + first * 2 * ld;  // the first share's lies in its second place, the others' in their first
    sum = Joined<Core>(D, others + 1, [&](int i) { return parts + (i ? i * 2 : 1) * ld; });
  }
  const int64_t to = at.row * p.out_ld + at.h * D;
#pragma unroll
  for (int x = 0; x < kSlices; x++)
    if (const int d = x * 32 + lane; d < D) store(p.out, p.act, to + d, sum.r[x] / sum.weight);
}

template <class Core> __device__ void load_q(const Args& p, const Cursor& at, Turned<Core>& q) {
  with_words(p, [&](auto* words) { q.load(p, words + place_of<Core>(p, at, 0)); });
}
/// Turns q for this warp: query [D], times the scale. new_sums: null, or where this warp leaves the sums of the new token, which it stores.
template <class Core> __device__ void stage(const Args& p, const Cursor& at, const Turned<Core>& q, float* query, float* new_sums) {
  const auto turn = [&] {
#pragma unroll
    for (int i = 0; i < Core::kSlices; i++)
      if (const int d = q.at(i); d < Core::dim(p)) query[d] = q.value(p, i) * (p.scale * kLog2e);
  };
  if (new_sums) {
    NewToken<Core> token(p, at);
    turn();
    token.append(p, at, q, query, new_sums);
  } else {
    turn();
  }
  __syncwarp();
}

template <class Core> __global__ void __launch_bounds__(Core::kWarps * 64, 1) decode_kernel(const __grid_constant__ Args p) {
  constexpr int kMostWarps = 2 * Core::kWarps;
  extern __shared__ __align__(128) uint8_t memory[];  // ring, queries [warps][D], sums [2][warps + 1][D + 2]
  __shared__ int scratch[kMostWarps + 2];
  const int D = Core::dim(p), warps = blockDim.x / 32, warp = threadIdx.x / 32, ld = D + 2;
  float* query = reinterpret_cast<float*>(memory + Core::shared_bytes(warps)) + warp * D;
  float* sums = reinterpret_cast<float*>(memory + Core::shared_bytes(warps)) + warps * D;

  grid_launch();
  const auto count = [&](int s) { return units_of(p, s) * p.heads; };
  const Shares shares(p.seqs, scratch, count);
  if (shares.total == 0) return grid_wait();
  const Division cut(shares.total, shares.holders * p.heads, gridDim.x, Core::kUnitBytes);
  const int begin = cut.begin(blockIdx.x), end = cut.begin(blockIdx.x + 1);
  if (begin == end) return;  // without a wait: others wait for the kernel before
  const int2 place = shares.find(begin, scratch, count);
  Cursor at{place.x, 0, 0, units_of(p, place.x), p.q_start[place.x]};
  at.h = place.y / at.n, at.u = place.y % at.n;

  Turned<Core> q;
  q.load_angles(p, at.row);
  Core core(p, memory, at, begin, end);
  load_q(p, at, q);
  int next = begin + warp;  // this warp's next unit
  for (int unit = begin, turn = 0; unit < end; turn++) {
    const int start = unit - at.u, stop = min(end, start + at.n), n = stored(p, at.s);
    // Warps from `first` on have one unit more than the others, which have time: the next one for the new token, the one before it to join.
    const int first = (unit - begin) % warps, next_warp = (stop - begin) % warps, place = (warp - first + warps) % warps;
    const int busy = min(stop - unit, warps);
    const bool fresh = stop == start + at.n && !p.appended;
    float* joined = sums + (turn & 1) * (warps + 1) * ld;
    stage(p, at, q, query, fresh && warp == next_warp ? joined + busy * ld : nullptr);
    core.begin(query);
    Cursor then = at;
    if (stop < end) {  // the next q, long before its turn
      advance(p, then, stop - unit);
      if (then.s != at.s) q.load_angles(p, then.row);
      load_q(p, then, q);
    }
    for (; next < stop; next += warps) core.unit(at, next - start, n);
    if (place < busy) core.end_head(joined + place * ld);
    __syncthreads();  // this half of sums is free again after the next one
    if (warp == (next_warp + warps - 1) % warps)
      finish<Core>(p, Joined<Core>(D, busy + fresh, [&](int i) { return joined + i * ld; }), at, stop - start, cut, start);
    at = then, unit = stop;
  }
}

/// False where the device has too little shared memory for this core.
template <class Core> bool decode_with(const Args& args, const Stream& stream) {
  constexpr size_t kStatic = 128, kReserved = 1024;  // an SM keeps 1 KB of each CTA's for itself
  const int sms = attribute(cudaDevAttrMultiProcessorCount);
  const auto room = size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const auto bytes = [&](int warps) {
    return size_t(Core::shared_bytes(warps)) + sizeof(float) * size_t(warps * args.head_dim + 2 * (warps + 1) * (args.head_dim + 2));
  };
  int warps = Core::kWarps, ctas = 2;
  if (bytes(warps) + kStatic > room) return false;
  // Few heads: a CTA an SM, with as many warps as two have.
  if (int64_t(args.seqs) * args.heads <= sms && bytes(2 * warps) + kStatic <= room) warps *= 2, ctas = 1;
  const int fit = int(size_t(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)) / (bytes(warps) + kStatic + kReserved));
  const int grid = std::min(sms * std::clamp(fit, 1, ctas), kMaxShares);
  launch({.name = "attention, decode", .grid = unsigned(grid), .block = unsigned(warps * 32), .stream = stream, .shared = bytes(warps)},
         decode_kernel<Core>, args);
  return true;
}

template <class T> bool decode_ringed(const Args& args, const Stream& stream) {
  switch (args.head_dim) {
    case 64: return decode_with<RingCore<T, 64, 8, 3>>(args, stream);
    case 80: return decode_with<RingCore<T, 80, 6, 3>>(args, stream);
    case 96: return decode_with<RingCore<T, 96, 8, 2>>(args, stream);
    case 128: return decode_with<RingCore<T, 128, 6, 2>>(args, stream);
    case 256: return decode_with<RingCore<T, 256, 3, 2>>(args, stream);
    default: return false;
  }
}

template <class T> bool decode_plain(const Args& args, const Stream& stream) {
  return args.head_dim <= 128 ? decode_with<PlainCore<T, 4>>(args, stream) : decode_with<PlainCore<T, 8>>(args, stream);
}

}  // namespace

void decode(const Args& args, const Stream& stream) {
  if (args.kv == DType::f32) decode_plain<float>(args, stream);
  else if (args.kv == DType::f16) decode_ringed<__half>(args, stream) || decode_plain<__half>(args, stream);
  else decode_ringed<__nv_bfloat16>(args, stream) || decode_plain<__nv_bfloat16>(args, stream);
}

}  // namespace neox::cuda::attn
