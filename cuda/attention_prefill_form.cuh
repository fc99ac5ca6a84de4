// SPDX-License-Identifier: Apache-2.0
// Prefill attention by warpgroups: what a CTA has in shared memory, and the warps that plan and fetch for those that compute.
#pragma once
#include "attention_common.cuh"
#include "attention_products.cuh"

namespace neox::cuda::attn {

/// Tensors as copies of boxes see them: k and v [rows of all pages][head_dim], q [tokens][heads, 3][head_dim].
struct PrefillMaps {
  CUtensorMap k, v, q;  // q: only where its rows are aligned
};

/// A tile: one head's rows, up to 64 of a sequence for each computing warpgroup.
struct Work {
  int head, seq;
  int row, rows;       // token row of the first one; how many there are, 0: no more tiles
  int position, keys;  // of the first row; of the sequence, with this step's
};

/// DP: head_dim, padded. Groups: computing warpgroups. Keys: of a block. Stages: blocks of k and of v on their way, QStages: tiles of q.
template <class Type, int DP, int Groups, int Keys, int Stages, int QStages> struct Form {
  using T = Type;
  static constexpr int kDP = DP, kGroups = Groups, kKeys = Keys, kStages = Stages, kQStages = QStages;
  static constexpr int kRows = 64 * Groups, kThreads = 128 * (Groups + 1), kLoaders = 3;
  static constexpr int kStripe = DP % 64 == 0 ? 128 : 64, kStripes = (DP * 2 + kStripe - 1) / kStripe;  // bytes of a row side by side
  static constexpr int kQBytes = 64 * kStripe * kStripes, kBlockBytes = Keys * kStripe * kStripes;
  // Registers of a thread that computes, and of one that does not: of 65536, and enough that neither has to spill much.
  static constexpr int kTake = Groups == 2 ? 216 : 152, kGive = Groups == 2 ? 72 : 56;

  struct Memory {
    uint8_t q[QStages][Groups][kQBytes], k[Stages][kBlockBytes], v[Stages][kBlockBytes];  // [stripes][rows][kStripe]
    uint64_t q_full[QStages], q_empty[QStages], k_full[Stages], k_empty[Stages], v_full[Stages], v_empty[Stages];
    uint64_t work_full[2], work_empty[2];
    Work work[2];

    __device__ void init() {
      constexpr int kComputing = 4 * Groups;  // warps
      for (int i = 0; i < QStages; i++) barrier_init(&q_full[i], kLoaders), barrier_init(&q_empty[i], kComputing);
      for (int i = 0; i < Stages; i++) {
        barrier_init(&k_full[i], kLoaders), barrier_init(&k_empty[i], kComputing);
        barrier_init(&v_full[i], kLoaders), barrier_init(&v_empty[i], kComputing);
      }
      for (int i = 0; i < 2; i++) barrier_init(&work_full[i], 1), barrier_init(&work_empty[i], 32 * (kComputing + kLoaders));
      barrier_init_done();
    }
  };
  static constexpr size_t kBytes = sizeof(Memory) + 1024;  // Memory lies at a multiple of 1024
};

/// One's place in a ring of N, and the parity of its phase.
template <int N> struct Turn {
  int at = 0, parity = 0;
  __device__ void next() {
    if (++at == N) at = 0, parity ^= 1;
  }
};
/// Of those who fill a ring: what is empty at first counts as emptied.
template <int N> __device__ Turn<N> filling() { return {0, 1}; }

/// The next tile, for a whole warp that is one of those who wait for it.
template <class F> __device__ Work receive(typename F::Memory& m, Turn<2>& turn) {
  barrier_wait(&m.work_full[turn.at], turn.parity);
  const Work w = m.work[turn.at];
  barrier_arrive(&m.work_empty[turn.at]);  // each lane for itself: racecheck does not see that a warp's one follows the others' reads
  turn.next();
  return w;
}

/// A warp that deals the tiles out, to CTAs as they come for more: some heads at a time, whose k and v the L2 cache holds, and of these the
/// tiles from the last sequence's last on, so that those with most keys come first and the last ones are short.
template <class F> struct Planner {
  const Args& p;
  const int lane = threadIdx.x % 32;
  int base = 0, before = 0;                         // of the search: sequences from the last on, and their tiles
  int tiles_each = 0, together, item = blockIdx.x;  // tiles of a head; heads at a time; this CTA's next of all heads' tiles

  __device__ explicit Planner(const Args& a) : p(a) {
    constexpr int kAtATime = 400;  // tiles, of one sequence: three for each CTA
    int seqs = 0;
    for (int i = lane; i < p.seqs; i += 32) {
      const int n = tiles(i);
      tiles_each += n, seqs += n > 0;
    }
    for (int o = 16; o > 0; o /= 2) tiles_each += __shfl_xor_sync(~0u, tiles_each, o), seqs += __shfl_xor_sync(~0u, seqs, o);
    together = min(p.heads, max(1, kAtATime * seqs / max(tiles_each, 1)));
  }
  __device__ int tiles(int i) const {  // of the i-th sequence from the last
    if (i >= p.seqs) return 0;
    const int s = p.seqs - 1 - i, rows = p.q_start[s + 1] - p.q_start[s];
    return rows >= p.least_rows && rows <= p.most_rows && p.kv_len[s] > 0 ? (rows + F::kRows - 1) / F::kRows : 0;
  }
  __device__ Work find() {
    if (item >= tiles_each * p.heads) return {};
    const int group = item / (together * tiles_each), first = group * together, wide = min(together, p.heads - first);
    const int left = item - first * tiles_each;
    return tile(left / wide, first + left % wide);
  }
  __device__ Work tile(int e, int head) {  // the e-th from the last
    if (e < before) base = before = 0;
    for (;; base += 32) {
      const int n = tiles(base + lane);
      int sum = n;
      for (int o = 1; o < 32; o *= 2) {
        const int below = __shfl_up_sync(~0u, sum, o);
        if (lane >= o) sum += below;
      }
      const int total = __shfl_sync(~0u, sum, 31);
      if (e - before < total) {
        const int l = __ffs(int(__ballot_sync(~0u, sum > e - before))) - 1, s = p.seqs - 1 - base - l;
        const int row = (__shfl_sync(~0u, sum, l) - 1 - (e - before)) * F::kRows;
        const int first = p.q_start[s], rows = p.q_start[s + 1] - first, keys = p.kv_len[s];
        return {.head = head, .seq = s, .row = first + row, .rows = min(F::kRows, rows - row), .position = keys - rows + row, .keys = keys};
      }
      before += total;
    }
  }
  __device__ void run(typename F::Memory& m) {
    for (auto turn = filling<2>();; turn.next()) {
      const Work w = find();
      barrier_wait(&m.work_empty[turn.at], turn.parity);
      if (lane == 0) {
        m.work[turn.at] = w;
        barrier_arrive(&m.work_full[turn.at]);
        if (w.rows) {
          const int others = int(atomicAdd(p.dealt, 1u));
          if (others == tiles_each * p.heads - 1) *p.dealt = 0;  // each tile asks for one more: this was the last
          item = int(gridDim.x) + others;
        }
      }
      if (!w.rows) return;
      item = __shfl_sync(~0u, item, 0);
    }
  }
};

/// One of the warps that fetch q, k and v. Each takes every third unit of a block.
template <class F> struct Loader {
  using T = typename F::T;
  static constexpr int kUnits = F::kKeys / kUnit, kMine = (kUnits + F::kLoaders - 1) / F::kLoaders;
  const Args& p;
  const PrefillMaps& maps;
  typename F::Memory& m;
  const int warp, lane = threadIdx.x % 32;
  Turn<F::kStages> k = filling<F::kStages>(), v = filling<F::kStages>();
  Turn<F::kQStages> q = filling<F::kQStages>();
  int row, units = 0;  // of a block: lane i has where this warp's i-th unit lies in the pages; how many there are

  __device__ Loader(const Args& a, const PrefillMaps& b, typename F::Memory& memory, int w) : p(a), maps(b), m(memory), warp(w) {}

  __device__ void run() {
    Turn<2> turn;
    for (Work w = receive<F>(m, turn); w.rows; w = receive<F>(m, turn)) feed(w);
  }
  __device__ void feed(const Work& w) {  // k is a block ahead of v, whose place is left later
    const int blocks = (w.position + w.rows + F::kKeys - 1) / F::kKeys;
    look_up(w, 0);
    load(&maps.k, m.k[k.at], &m.k_full[k.at], &m.k_empty[k.at], k.parity, row, units), k.next();
    load_q(w);
    for (int j = 0; j < blocks; j++) {
      const int v_row = row, v_units = units;
      if (j + 1 < blocks) {
        look_up(w, j + 1);
        load(&maps.k, m.k[k.at], &m.k_full[k.at], &m.k_empty[k.at], k.parity, row, units), k.next();
      }
      load(&maps.v, m.v[v.at], &m.v_full[v.at], &m.v_empty[v.at], v.parity, v_row, v_units), v.next();
    }
  }
  __device__ void look_up(const Work& w, int j) {
    const int unit = warp + F::kLoaders * lane, position = j * F::kKeys + unit * kUnit;
    const bool real = unit < kUnits && position < w.keys;
    if (real) row = (p.blocks[int64_t(w.seq) * p.blocks_ld + position / p.block] * p.heads + w.head) * p.block + position % p.block;
    units = __popc(__ballot_sync(~0u, real));
  }
  __device__ void load(const CUtensorMap* map, uint8_t* to, uint64_t* full, uint64_t* empty, int parity, int at, int count) const {
    barrier_wait(empty, parity);
    if (one_of_warp()) barrier_expect(full, count * (kUnit * F::kStripe * F::kStripes));
#pragma unroll
    for (int i = 0; i < kMine; i++) {
      const int from = __shfl_sync(~0u, at, i);
      if (i < count && one_of_warp())
#pragma unroll
        for (int c = 0; c < F::kStripes; c++)
          copy_box(to + (c * F::kKeys + (warp + F::kLoaders * i) * kUnit) * F::kStripe, map, c * (F::kStripe / 2), from, full);
    }
  }
  __device__ void load_q(const Work& w) {  // rows that follow the tile's come with it: nobody asks for what is made of them
    barrier_wait(&m.q_empty[q.at], q.parity);
    uint64_t* const full = &m.q_full[q.at];
    constexpr int kBoxes = F::kGroups * F::kStripes;
    if (!p.qkv_aligned) {
      store_q(w);
    } else if (one_of_warp()) {
      const int first = warp * kBoxes / F::kLoaders, end = (warp + 1) * kBoxes / F::kLoaders;
      barrier_expect(full, (end - first) * 64 * F::kStripe);
      for (int i = first; i < end; i++) {
        const int g = i / F::kStripes, c = i % F::kStripes;
        copy_box(m.q[q.at][g] + c * 64 * F::kStripe, &maps.q, c * (F::kStripe / 2), w.head * 3, w.row + g * 64, full);
      }
    }
    q.next();
  }
  __device__ void store_q(const Work& w) {  // as a copy of boxes would, from rows that lie anywhere
    for (int i = warp * 32 + lane; i < F::kRows * F::kDP; i += 32 * F::kLoaders) {
      const int r = i / F::kDP, d = i % F::kDP, at = r % 64, stripe = d * 2 / F::kStripe, vector = d * 2 % F::kStripe / 16;
      const int swizzle = F::kStripe == 128 ? at % 8 : at / 2 % 4;
      const bool real = r < w.rows && d < p.head_dim;
      const T* from = static_cast<const T*>(p.qkv) + int64_t(w.head) * 3 * p.head_dim;
      T* to = reinterpret_cast<T*>(m.q[q.at][r / 64] + (stripe * 64 + at) * F::kStripe + (vector ^ swizzle) * 16);
      to[d % 8] = real ? from[(w.row + r) * p.qkv_ld + d] : T(0.f);
    }
    publish_to_products();
    __syncwarp();
    if (lane == 0) barrier_arrive(&m.q_full[q.at]);
  }
};

}  // namespace neox::cuda::attn
