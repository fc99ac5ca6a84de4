// SPDX-License-Identifier: Apache-2.0
// Attention of prefill rows by warpgroups (sm_90a): sequences with more than one row in this step, 16-bit activations and pages of one
// type. As many CTAs as there are SMs take tiles of one head and 64 rows for each computing warpgroup, and walk the keys from the first to
// the tile's last: S = q k^T, online softmax in f32, O += P v, with S, P and O in registers. Three warps fetch q, k and v in boxes of 16
// positions, however the pages lie, and one deals out tiles ahead. The products O += P v of a block run beside the softmax of the next, and
// warpgroups start their products in turns, so that one's run beside another's softmax.
// A row's sums depend on its position and on blocks of keys from the first on, in order, and on nothing else of the step: however prompts
// are cut or batched its bits are the same, as single rows' that come here (decode_as_prefill).
// Floor: 4 head_dim operations per row, head and key seen; q and out once, k and v once per tile from L2.
#pragma once
#include "attention_prefill_form.cuh"
#include "boxes.h"

namespace neox::cuda::attn {

template <class F> struct Computer {
  using T = typename F::T;
  static constexpr int kKeys = F::kKeys, kDP = F::kDP;
  static constexpr float kSlack = 8;  // weights may be up to 2^8, so that sums need not be scaled anew with each new maximum
  const Args& p;
  typename F::Memory& m;
  const int group, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  float s[kKeys / 2], o[kDP / 2], most[2], weight[2];  // of rows lane / 4 and 8 further of the warp's 16
  uint32_t weights[kKeys / 4];
  uint64_t q_at;
  Turn<F::kStages> k, v;

  __device__ Computer(const Args& a, typename F::Memory& memory, int g) : p(a), m(memory), group(g) {}

  __device__ void run() {
    Turn<2> turn;
    Turn<F::kQStages> q;
    if (group == F::kGroups - 1) your_turn();
    for (Work w = receive<F>(m, turn); w.rows; w = receive<F>(m, turn), q.next()) {
      barrier_wait(&m.q_full[q.at], q.parity);
      q_at = stripes<F::kStripe>(m.q[q.at][group]);
      const int rows = w.rows - group * 64, position = w.position + group * 64;
      const int all = (w.position + w.rows + kKeys - 1) / kKeys, mine = rows > 0 ? (position + min(rows, 64) + kKeys - 1) / kKeys : 0;
      if (mine) attend(w, position, mine, &m.q_empty[q.at]);
      else release(&m.q_empty[q.at]);
      for (int j = mine; j < all; j++) {  // blocks for other warpgroups' rows
        my_turn(), your_turn();
        barrier_wait(&m.k_full[k.at], k.parity), release_k();
        barrier_wait(&m.v_full[v.at], v.parity), release_v();
      }
      if (mine) finish(w, rows);
    }
  }
  // Warpgroups start the products of a block one after another.
  __device__ void my_turn() const { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); }
  __device__ void your_turn() const { asm volatile("bar.arrive %0, 256;" ::"r"(1 + (group + 1) % F::kGroups) : "memory"); }
  __device__ void release(uint64_t* empty) const {
    if (lane == 0) barrier_arrive(empty);
  }
  __device__ void release_k() { release(&m.k_empty[k.at]), k.next(); }
  __device__ void release_v() { release(&m.v_empty[v.at]), v.next(); }

  __device__ void attend(const Work& w, int position, int blocks, uint64_t* q_empty) {
    float f[2];
#pragma unroll
    for (int i = 0; i < kDP / 2; i++) o[i] = 0;
    for (int i = 0; i < 2; i++) most[i] = -INFINITY, weight[i] = 0;
    barrier_wait(&m.k_full[k.at], k.parity);
    my_turn();
    start_scores();
    your_turn();
    products_end<0>(s);
    release_k();
    soften(0, position, f);
    pack_weights();
    for (int j = 1; j < blocks; j++) {
      barrier_wait(&m.k_full[k.at], k.parity);
      my_turn();
      start_scores();
      barrier_wait(&m.v_full[v.at], v.parity);
      start_sums();
      your_turn();
      products_end<1>(s);
      release_k();
      soften(j * kKeys, position, f);
      products_end<0>(o);
      release_v();
      if (__any_sync(~0u, f[0] != 1 || f[1] != 1))
#pragma unroll
        for (int i = 0; i < kDP / 2; i++) o[i] *= f[i / 2 % 2];
      pack_weights();
    }
    release(q_empty);
    barrier_wait(&m.v_full[v.at], v.parity);
    if (const int real = w.keys - (blocks - 1) * kKeys; real < kKeys) clear_v(real);
    start_sums();
    products_end<0>(o);
    release_v();
  }
  __device__ void start_scores() {
    const uint64_t k_at = stripes<F::kStripe>(m.k[k.at]);
    products_begin();
#pragma unroll
    for (int d = 0; d < kDP; d += 16) {
      const int stripe = d * 2 / F::kStripe, inside = d * 2 % F::kStripe;
      TileProducts<T, kKeys>::by_rows(s, operand_at(q_at, stripe * 64 * F::kStripe + inside),
                                      operand_at(k_at, stripe * kKeys * F::kStripe + inside), d > 0);
    }
    products_commit();
  }
  __device__ void start_sums() {
    const uint64_t v_at = stripes<F::kStripe>(m.v[v.at], kKeys * F::kStripe);
    products_begin();
#pragma unroll
    for (int i = 0; i < kKeys / 16; i++) {
      const uint32_t a[4] = {weights[4 * i], weights[4 * i + 1], weights[4 * i + 2], weights[4 * i + 3]};
      TileProducts<T, kDP>::by_columns(o, a, operand_at(v_at, i * 16 * F::kStripe));
    }
    products_commit();
  }
  __device__ void hide_later(int key, int position) {  // keys after a row's own position
    const int last = position + warp * 16 + lane / 4 - key - lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kKeys / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (j * 8 + i % 2 - i / 2 * 8 > last) s[j * 4 + i] = -INFINITY;
  }
  /// Scores -> exp(scores - most). most stays as it is until kSlack is passed. f: what sums so far are to be multiplied by.
  __device__ void soften(int key, int position, float (&f)[2]) {
    if (key + kKeys - 1 > position + warp * 16) hide_later(key, position);
    const float c = p.scale * kLog2e;
    float top[4];  // of both rows, two of each for shorter chains
#pragma unroll
    for (int i = 0; i < 4; i++) top[i] = fmaxf(s[i], s[i + 4]);
#pragma unroll
    for (int j = 2; j < kKeys / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) top[i] = fmaxf(top[i], s[j * 4 + i]);
    float less[2], sum[4] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float x = fmaxf(top[2 * i], top[2 * i + 1]);
      x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
      x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
      const float old = most[i];
      if ((x - old) * c > kSlack) most[i] = x;
      f[i] = exp2_of((old - most[i]) * c), less[i] = most[i] * c;
    }
#pragma unroll
    for (int j = 0; j < kKeys / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float& x = s[j * 4 + i];
        x = exp2_of(x * c - less[i / 2]);
        sum[i] += x;
      }
#pragma unroll
    for (int i = 0; i < 2; i++) weight[i] = weight[i] * f[i] + (sum[2 * i] + sum[2 * i + 1]);
    // ptxas would move the wait for products that follows above all this; a branch that is never taken holds it.
    if (weight[0] + weight[1] < 0) asm volatile("trap;");
  }
  __device__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < kKeys / 4; i++) weights[i] = pack(s[2 * i], s[2 * i + 1], T());
  }
  /// Slots past the sequence's end may hold anything, which must not be multiplied. Each warpgroup does it for itself.
  __device__ void clear_v(int real) {
    uint8_t* const to = m.v[v.at];
    constexpr int kVectors = F::kStripe / 16;
    for (int i = real * kVectors + int(threadIdx.x % 128); i < kKeys * kVectors; i += 128)
#pragma unroll
      for (int c = 0; c < F::kStripes; c++) *reinterpret_cast<uint4*>(to + c * kKeys * F::kStripe + i * 16) = {};
    publish_to_products();
    asm volatile("bar.sync %0, 128;" ::"r"(1 + F::kGroups + group) : "memory");
  }
  __device__ void finish(const Work& w, int rows) {  // four lanes hold a row; of 32 columns each gets 8 side by side
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float total = weight[i];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      const float f = 1 / total;
      const int row = warp * 16 + lane / 4 + i * 8;
      T* const to = static_cast<T*>(p.out) + int64_t(w.row + group * 64 + row) * p.out_ld + int64_t(w.head) * p.head_dim;
#pragma unroll
      for (int j = 0; j < kDP / 8; j += 4) {
        uint32_t x[4];
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] = j + e < kDP / 8 ? pack(o[(j + e) * 4 + 2 * i] * f, o[(j + e) * 4 + 2 * i + 1] * f, T()) : 0;
        transpose(x);
        const int d = (j + lane % 4) * 8;
        if (row >= rows || d >= p.head_dim) continue;
        if (p.out_aligned) *reinterpret_cast<uint4*>(to + d) = make_uint4(x[0], x[1], x[2], x[3]);
        else
#pragma unroll
          for (int e = 0; e < 8; e++) to[d + e] = reinterpret_cast<const T*>(x)[e];
      }
    }
  }
  /// Of four lanes: lane l's x[e] <-> lane e's x[l].
  __device__ void transpose(uint32_t (&x)[4]) const {
#pragma unroll
    for (int b = 1; b < 4; b *= 2) {
      const bool upper = lane & b;
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (!(e & b)) {
          const uint32_t got = __shfl_xor_sync(~0u, upper ? x[e] : x[e | b], b);
          (upper ? x[e] : x[e | b]) = got;
        }
    }
  }
};

template <class F>
__global__ void __launch_bounds__(F::kThreads, 1)
    prefill_warpgroups_kernel(const __grid_constant__ Args p, const __grid_constant__ PrefillMaps maps) {
  if constexpr (kWarpgroups) {
    extern __shared__ __align__(128) uint8_t memory[];
    auto& m = *reinterpret_cast<typename F::Memory*>(memory + (1024 - shared_address(memory) % 1024) % 1024);
    if (threadIdx.x == 0) m.init();
    __syncthreads();
    grid_wait();
    if (threadIdx.x < 128) {
      give_registers<F::kGive>();
      if (threadIdx.x < 32) Planner<F>(p).run(m);
      else Loader<F>(p, maps, m, int(threadIdx.x) / 32 - 1).run();
    } else {
      take_registers<F::kTake>();
      Computer<F>(p, m, int(threadIdx.x) / 128 - 1).run();
    }
  }
}

template <class F> void prefill_warpgroups_with(const Args& args, int32_t max_q, const Stream& stream) {
  const unsigned tiles = most_tiles(args, max_q, F::kRows) * unsigned(args.heads);
  if (!tiles) return;
  const auto D = cuuint64_t(args.head_dim);
  constexpr cuuint32_t kColumns = F::kStripe / 2;
  const auto pages = [&](void* data) {  // how many there are is not known here, nor needed
    return boxes<2>(data, {D, cuuint64_t(1) << 31}, {D}, {kColumns, kUnit});
  };
  PrefillMaps maps{.k = pages(args.k), .v = pages(args.v), .q = {}};
  if (args.qkv_aligned)
    maps.q = boxes<3>(args.qkv, {D, cuuint64_t(args.heads) * 3, cuuint64_t(args.tokens)}, {D, cuuint64_t(args.qkv_ld)}, {kColumns, 1, 64});
  launch({.name = "attention, prefill",
          .grid = std::min(tiles, unsigned(attribute(cudaDevAttrMultiProcessorCount))),
          .block = F::kThreads,
          .stream = stream,
          .shared = F::kBytes},
         prefill_warpgroups_kernel<F>, args, maps);
}
template <class T> void prefill_warpgroups(const Args& args, int32_t max_q, const Stream& stream) {
  const int D = args.head_dim;
  if (D <= 64) prefill_warpgroups_with<Form<T, 64, 3, 96, 3, 2>>(args, max_q, stream);
  else if (D <= 80) prefill_warpgroups_with<Form<T, 80, 2, 128, 2, 2>>(args, max_q, stream);
  else if (D <= 96) prefill_warpgroups_with<Form<T, 96, 2, 128, 2, 2>>(args, max_q, stream);
  else if (D <= 128) prefill_warpgroups_with<Form<T, 128, 2, 128, 2, 2>>(args, max_q, stream);
  else prefill_warpgroups_with<Form<T, 256, 2, 64, 2, 1>>(args, max_q, stream);
}

}  // namespace neox::cuda::attn
