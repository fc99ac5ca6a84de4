// SPDX-License-Identifier: Apache-2.0
// linear for up to 64 rows on compute capability 9.0: out = act(x W^T + bias), W [n, inputs] and x [rows, inputs] of a 16-bit type T.
// W is walked in units (linear_units.cuh): 128 rows by 256 bytes of inputs. All units are cut into equal contiguous shares, one a CTA and
// one CTA an SM. One thread copies units, each with its part of x beside it, into a ring; two warpgroups multiply, W being the tensor
// cores' M side and x their N side.
// A tile cut between CTAs is finished by the one that has its beginning, which comes to it last: it waits for the others' sums and adds
// them in their order, so the order of summation depends on the shape and the card alone. CTAs wait only for later ones of their kernel,
// whose sums come first of all that those do: they need not all be there at once.
// The ring's first units of W, and the next few as far as the L2 cache, are fetched before the kernel before has ended; x only then.
// A ring takes more than half of an SM's shared memory: where two such CTAs fit on an SM, kernels that start early come to lie two on some
// SMs and none on others. It leaves room for the row that add_norm keeps there, whose CTAs can then wait beside it.
// Floor: W read once from memory; x, once a CTA and tile, from L2. Instantiations: 8 (f16, bf16 x 8, 16, 32, 64 rows).
#pragma once
#include "activate.cuh"
#include "hopper.cuh"
#include "linear_units.cuh"

namespace neox::cuda {

constexpr int kStreamWarps = kTileRows / 16, kStreamThreads = (kStreamWarps + 1) * 32;  // the last warp copies
constexpr int kRingBytes = 200 * 1024;
constexpr int kUnitBytes = kTileRows * kStreamVectors * 16;

/// The bits of an element of a bias: what would convert it, would wait for it.
__device__ inline uint32_t bias_bits(const SmallPart& p, int column) {
  if (!p.bias || column >= p.n) return 0;
  return p.bias_type == DType::f32 ? static_cast<const uint32_t*>(p.bias)[column] : static_cast<const uint16_t*>(p.bias)[column];
}
__device__ inline float bias_of(uint32_t bits, DType type) {
  if (type == DType::f16) return __half2float(__ushort_as_half(uint16_t(bits)));
  return __uint_as_float(type == DType::f32 ? bits : bits << 16);
}
__device__ inline uint32_t pair_of(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline uint32_t pair_of(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <class T, int R> struct Streamed {
  static constexpr int kStage = kUnitBytes + R * kStreamVectors * 16, kStages = kRingBytes / kStage;
  static constexpr int kPrefetched = 2;  // units after the ring's first; many more would push out what is needed sooner
  static constexpr int kSums = R / 2;    // of a thread
  struct Barriers {
    uint64_t full[kStages], empty[kStages];
  };

  const StreamCall& p;
  uint8_t* const ring;  // [kStages][W | x]
  Barriers& barriers;
  const Cut cut;
  const int lane, warp, begin, count;  // begin, count: this CTA's units
  float sums[kSums];

  __device__ Streamed(const StreamCall& call, uint8_t* memory, Barriers& b)
      : p(call), ring(memory), barriers(b), cut{call.total, int(gridDim.x)}, lane(threadIdx.x % 32), warp(threadIdx.x / 32),
        begin(cut.begin(blockIdx.x)), count(cut.begin(blockIdx.x + 1) - begin) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; i++) barrier_init(barriers.full + i, 1), barrier_init(barriers.empty + i, kStreamWarps);
      barrier_init_done();
    }
    __syncthreads();
    if (warp < kStreamWarps) multiply();
    else if (lane == 0) copy();
  }

  // A unit in the ring is [rows / 8][2][8 rows of 64 inputs], or, of weights that are not grouped, [2][rows of 64 inputs], as x is.
  __device__ void copy_w(int slot, const SmallCursor& c, uint64_t policy) const {
    uint8_t* const to = ring + slot * kStage;
    const CUtensorMap* const map = p.w_boxes + c.in_second(p);
    const int half = c.unit_of_source(p) * 2, row = c.tile * kTileRows;
    uint64_t* const full = barriers.full + slot;
    barrier_expect(full, kStage);
    if (p.grouped) return copy_box(to, map, 0, 0, half, row / 8, full, policy);
    for (int h = 0; h < 2; h++) copy_box(to + h * (kUnitBytes / 2), map, (half + h) * 64, row, full, policy);
  }
  __device__ void prefetch_w(const SmallCursor& c) const {
    const CUtensorMap* const map = p.w_boxes + c.in_second(p);
    const int half = c.unit_of_source(p) * 2, row = c.tile * kTileRows;
    if (p.grouped) return prefetch_box(map, 0, 0, half, row / 8);
    for (int h = 0; h < 2; h++) prefetch_box(map, (half + h) * 64, row);
  }
  __device__ void copy_x(int slot, const SmallCursor& c, uint64_t policy) const {
    for (int h = 0; h < 2; h++)
      copy_box(ring + slot * kStage + kUnitBytes + h * (R * 128), p.x_boxes + c.in_second(p), (c.unit_of_source(p) * 2 + h) * 64, 0,
               barriers.full + slot, policy);
  }
  __device__ void copy() const {
    const uint64_t w_policy = drop_first(), x_policy = drop_last();
    SmallCursor next(p, begin), x = next;
    const int first = min(kStages, count);
    for (int i = 0; i < first; i++) copy_w(i, next, w_policy), next.advance(p);
    prefetch_map(p.x_boxes), prefetch_map(p.x_boxes + 1);
    SmallCursor later = next;
    for (int i = first; i < min(first + kPrefetched, count); i++) prefetch_w(later), later.advance(p);
    grid_wait();
    for (int i = 0; i < first; i++) copy_x(i, x, x_policy), x.advance(p);
    for (int i = first, slot = 0, parity = 0; i < count; i++) {
      barrier_wait(barriers.empty + slot, parity);
      copy_w(slot, next, w_policy), copy_x(slot, next, x_policy), next.advance(p);
      if (++slot == kStages) slot = 0, parity ^= 1;
    }
  }

  __device__ void multiply() {
    grid_wait();
    SmallCursor at(p, begin);
    for (int i = 0, slot = 0, parity = 0; i < count; at.next_tile(p)) {
      const int stop = min(at.units, at.unit + count - i),
                n = at.tile * kTileRows + warp * 16 + lane / 4;  // n, n + 8: this thread's outputs
      const SmallPart& to = p.parts[at.part];
      uint32_t bias[2][2] = {};
      if (at.unit == 0)
        for (int h = 0; h < 2; h++) bias[0][h] = bias_bits(to, n + h * 8), bias[1][h] = p.sum ? bias_bits(p.parts[1], n + h * 8) : 0;
#pragma unroll
      for (float& s : sums) s = 0;
      i += stop - at.unit;
      for (int k = at.unit; k < stop; k++) {
        barrier_wait(barriers.full + slot, parity);
        multiply_unit(ring + slot * kStage);
        if (lane == 0) barrier_arrive(barriers.empty + slot);
        if (++slot == kStages) slot = 0, parity ^= 1;
      }
      if (at.unit > 0) {
        hand_over(cut.owner(at.begin(p)));
        continue;
      }
      if (stop < at.units) take_over(cut.owner(at.begin(p) + at.units - 1) - int(blockIdx.x));
      const float b[2] = {bias_of(bias[0][0], to.bias_type) + bias_of(bias[1][0], p.parts[1].bias_type),
                          bias_of(bias[0][1], to.bias_type) + bias_of(bias[1][1], p.parts[1].bias_type)};
#pragma unroll
      for (int s = 0; s < kSums; s++) sums[s] += b[s % 4 / 2];
      finish(to, n);
    }
  }
  __device__ void multiply_unit(const uint8_t* unit) {
    const int apart = p.grouped ? 2048 : 1024, half = p.grouped ? 1024 : kUnitBytes / 2;  // 8 rows, and 64 inputs
    const uint64_t w = descriptor(unit + warp / 4 * 8 * apart, apart), x = descriptor(unit + kUnitBytes, 1024);
    pin(sums);
    products_begin();
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int k = 0; k < 4; k++) Products<T>::add(sums, w + (h * half >> 4) + k * 2, x + (h * R * 128 >> 4) + k * 2);  // 16 inputs
    products_wait();
    pin(sums);
  }

  /// Each warp deals with its own outputs, so that none waits for another.
  __device__ float4* partial(int cta) const { return p.partial + int64_t(cta) * (kTileRows * R / 4) + threadIdx.x; }
  __device__ unsigned* arrived(int cta) const { return p.arrived + cta * kStreamWarps + warp; }
  __device__ void hand_over(int owner) const {
#pragma unroll
    for (int s = 0; s < kSums; s += 4)
      __stcg(partial(blockIdx.x) + s / 4 * (kStreamWarps * 32), make_float4(sums[s], sums[s + 1], sums[s + 2], sums[s + 3]));
    __syncwarp();
    if (lane == 0) add_release(arrived(owner));
  }
  __device__ void take_over(int others) {  // of as many CTAs after this one
    if (lane == 0) {
      while (load_acquire(arrived(blockIdx.x)) != unsigned(others)) {}
      *arrived(blockIdx.x) = 0;
    }
    __syncwarp();
    for (int o = 1; o <= others; o++) {
#pragma unroll
      for (int s = 0; s < kSums; s += 4) {
        const float4 x = __ldcg(partial(blockIdx.x + o) + s / 4 * (kStreamWarps * 32));
        sums[s] += x.x, sums[s + 1] += x.y, sums[s + 2] += x.z, sums[s + 3] += x.w;
      }
    }
  }

  /// Around loops over all sums, each activation has its own: together they would not fit the instruction cache.
  template <Act act> __device__ void apply() {
#pragma unroll
    for (float& s : sums) s = activate(act, s);
  }
  __device__ void finish(const SmallPart& to, int n) {
    switch (to.act) {
      case Act::gelu: apply<Act::gelu>(); break;
      case Act::gelu_tanh: apply<Act::gelu_tanh>(); break;
      case Act::relu: apply<Act::relu>(); break;
      case Act::silu: apply<Act::silu>(); break;
      default: break;
    }
    if (to.out_type == DType::f16) store_pairs<__half>(to, n);
    else if (to.out_type == DType::bf16) store_pairs<__nv_bfloat16>(to, n);
    else store_singly(to, n);
  }
  __device__ void store_singly(const SmallPart& to, int n) const {
    float* out = static_cast<float*>(to.out) + lane % 4 * 2 * to.out_ld + n;
#pragma unroll
    for (int s = 0; s < kSums; s++) {
      const int r = s / 4 * 8 + s % 2, c = s % 4 / 2 * 8;
      if (lane % 4 * 2 + r < p.rows && n + c < to.n) out[r * to.out_ld + c] = sums[s];
    }
  }
  /// Neighbouring outputs of a row, which are side by side once 8 outputs of 8 rows are transposed.
  template <class E> __device__ void store_pairs(const SmallPart& to, int n) const {
    n += lane % 4 * 2 - lane / 4;
    E* out = static_cast<E*>(to.out) + lane / 4 * to.out_ld + n;
    const bool whole = (uintptr_t(to.out) | uintptr_t(to.out_ld) * sizeof(E)) % 4 == 0;
#pragma unroll
    for (int s = 0; s < kSums; s += 2) {
      const int r = s / 4 * 8, c = s % 4 / 2 * 8;
      const uint32_t pair = transposed(pair_of(sums[s], sums[s + 1], E()));
      const E* const two = reinterpret_cast<const E*>(&pair);
      E* const at = out + r * to.out_ld + c;
      const int left = lane / 4 + r < p.rows ? to.n - n - c : 0;
      if (whole && left > 1) {
        *reinterpret_cast<uint32_t*>(at) = pair;
      } else {
        if (left > 0) at[0] = two[0];
        if (left > 1) at[1] = two[1];
      }
    }
  }
};

/// 2: with half of the registers, CTAs of other kernels can wait beside it.
template <class T, int R> __global__ __launch_bounds__(kStreamThreads, 2) void stream_kernel(const __grid_constant__ StreamCall p) {
  if constexpr (kWarpgroups) {
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ typename Streamed<T, R>::Barriers barriers;
    grid_launch();
    Streamed<T, R>(p, memory, barriers).run();
  }
}

template <class T, int R> void stream_of(const StreamCall& call, int ctas, const Stream& stream) {
  using S = Streamed<T, R>;
  launch({.name = "linear, few rows",
          .grid = unsigned(ctas),
          .block = kStreamThreads,
          .stream = stream,
          .shared = size_t(S::kStages) * S::kStage},
         stream_kernel<T, R>, call);
}
template <class T> void stream_with(const StreamCall& call, int ctas, const Stream& stream) {
  switch (streamed_rows(call.rows)) {
    case 8: return stream_of<T, 8>(call, ctas, stream);
    case 16: return stream_of<T, 16>(call, ctas, stream);
    case 32: return stream_of<T, 32>(call, ctas, stream);
    default: return stream_of<T, 64>(call, ctas, stream);
  }
}

}  // namespace neox::cuda
