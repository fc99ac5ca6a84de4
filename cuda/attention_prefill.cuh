// SPDX-License-Identifier: Apache-2.0
// Attention of prefill rows on the tensor cores: sequences with more than one row in this step, 16-bit activations and pages of one type.
// A CTA takes one head and a tile of a sequence's rows, and walks the keys from the first to the tile's last: S = q k^T, online softmax in
// f32, O += P v, by mma m16n8k16. q, k and v lie in shared memory as [row][DP + 8] (odd multiples of 16 bytes: ldmatrix without bank
// clashes), columns past head_dim and keys past kv_len as zeros. v's copy runs beside S, the next k's beside O.
// Floor: 4 head_dim operations per row, head and key seen; q and out once, k and v once per tile from L2.
// Where code is compiled for sm_90a, attention_prefill_warpgroups.cuh takes its place.
#pragma once
#include "attention_common.cuh"

namespace neox::cuda::attn {

/// Tiles of a sequence's rows, if they are as many as these kernels are to take.
template <int Rows> __device__ inline int tiles_of(const Args& p, int s) {
  const int rows = p.q_start[s + 1] - p.q_start[s];
  return rows >= p.least_rows && rows <= p.most_rows && p.kv_len[s] > 0 ? (rows + Rows - 1) / Rows : 0;
}

/// What a CTA works on: rows [row, row + Rows) of sequence s, as far as they exist.
struct Tile {
  int s, row, rows;    // rows: of the sequence in this step
  int64_t first;       // token row of the sequence
  int position, keys;  // of row `row`; keys that the tile's last row sees

  __device__ Tile(const Args& p, int seq, int at, int size) : s(seq), row(at), first(p.q_start[seq]) {
    rows = int(p.q_start[seq + 1] - first);
    position = p.kv_len[seq] - rows + row;
    keys = position + min(size, rows - row);
  }
};

/// DP: head_dim, padded. Tiles: of 16 rows, a warp's. Keys: in a step.
template <class T, int DP, int Tiles, int Warps, int Keys> struct Prefill {
  static constexpr bool kReplaced = kWarpgroups;
  static constexpr int kThreads = Warps * 32, kRows = Tiles * Warps * 16, kLd = DP + 8, kVectors = DP / 8;
  static constexpr int kBytes = (kRows + 2 * Keys) * kLd * 2;
  // Keys fetched at once, whole vectors side by side; with some head sizes a few threads have nothing to fetch.
  static constexpr int kRoom = kThreads / kVectors, kAtOnce = kRoom >= 16 ? 16 : kRoom >= 8 ? 8 : kRoom >= 4 ? 4 : kRoom >= 2 ? 2 : 1;
  static_assert(kAtOnce * kVectors <= kThreads && DP % 16 == 0 && Keys % 16 == 0);

  const Args& p;
  const Tile& tile;
  const int head, warp, lane;
  T *q, *k, *v;  // in shared memory: [kRows][kLd], [Keys][kLd] twice
  float o[Tiles][DP / 8][4], most[Tiles][2], weight[Tiles][2];
  float s[Tiles][Keys / 8][4];

  __device__ Prefill(const Args& a, const Tile& t, int h, void* memory)
      : p(a), tile(t), head(h), warp(threadIdx.x / 32), lane(threadIdx.x % 32), q(static_cast<T*>(memory)), k(q + kRows * kLd),
        v(k + Keys * kLd) {
#pragma unroll
    for (int t = 0; t < Tiles; t++) {
      for (int i = 0; i < 2; i++) most[t][i] = -INFINITY, weight[t][i] = 0;
#pragma unroll
      for (int j = 0; j < DP / 8; j++)
        for (int i = 0; i < 4; i++) o[t][j][i] = 0;
    }
  }
  __device__ int warp_row() const { return warp * Tiles * 16; }

  __device__ void fetch_q() {
#pragma unroll 4
    for (int i = threadIdx.x; i < kRows * kVectors; i += kThreads) {
      const int r = i / kVectors, d = i % kVectors * 8;
      const bool real = tile.row + r < tile.rows && d < p.head_dim;
      const T* from = static_cast<const T*>(p.qkv) + (tile.first + tile.row + r) * p.qkv_ld + int64_t(head) * 3 * p.head_dim + d;
      T* to = q + r * kLd + d;
      if (p.qkv_aligned) copy16(to, real ? from : static_cast<const T*>(p.qkv), real);
      else
        for (int e = 0; e < 8; e++) to[e] = real ? from[e] : T(0.f);
    }
  }
  /// Lane i: where the i-th unit of the keys from `key` on lies.
  __device__ int64_t look_up(int key) const {
    const int position = key + lane % (Keys / kUnit) * kUnit;
    return position < tile.keys ? unit_at(p, tile.s, head, position) : 0;
  }
  __device__ void fetch(T* to, const void* pages, int64_t units, int key) const {
    const int r = int(threadIdx.x) / kVectors, d = int(threadIdx.x) % kVectors * 8, mine = r * p.head_dim + d;
    const bool inside = d < p.head_dim;
    to += r * kLd + d;
#pragma unroll
    for (int i = 0; i < Keys; i += kAtOnce) {
      const int64_t from = __shfl_sync(~0u, units, i / kUnit) + (i % kUnit * p.head_dim + mine);
      const bool real = inside && key + i + r < tile.keys;
      if (r < kAtOnce) copy16(to + i * kLd, static_cast<const T*>(pages) + (real ? from : 0), real);
    }
  }

  __device__ void scores() {
#pragma unroll
    for (int t = 0; t < Tiles; t++)
#pragma unroll
      for (int j = 0; j < Keys / 8; j++)
        for (int i = 0; i < 4; i++) s[t][j][i] = 0;
    const uint32_t q_at = shared_address(q + (warp_row() + lane % 16) * kLd + lane / 16 * 8);
    const uint32_t k_at = shared_address(k + (lane / 16 * 8 + lane % 8) * kLd + lane / 8 % 2 * 8);
    uint32_t a[Tiles][4], b[2][4];  // b: of this turn, and of the next one, on its way
    ldmatrix(b[0], k_at);
#pragma unroll
    for (int i = 0; i < DP / 16 * (Keys / 16); i++) {
      const int d = i / (Keys / 16) * 16, j = i % (Keys / 16), next = i + 1;
      if (j == 0)
#pragma unroll
        for (int t = 0; t < Tiles; t++) ldmatrix(a[t], q_at + (t * 16 * kLd + d) * 2);
      if (next < DP / 16 * (Keys / 16)) ldmatrix(b[next % 2], k_at + (next % (Keys / 16) * 16 * kLd + next / (Keys / 16) * 16) * 2);
#pragma unroll
      for (int t = 0; t < Tiles; t++)
        mma<T>(s[t][2 * j], a[t], b[i % 2][0], b[i % 2][1]), mma<T>(s[t][2 * j + 1], a[t], b[i % 2][2], b[i % 2][3]);
    }
  }
  __device__ void hide_later(int key) {  // keys after a row's own position
#pragma unroll
    for (int t = 0; t < Tiles; t++)
#pragma unroll
      for (int j = 0; j < Keys / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int row = warp_row() + t * 16 + lane / 4 + i / 2 * 8;
          if (key + j * 8 + lane % 4 * 2 + i % 2 > tile.position + row) s[t][j][i] = -INFINITY;
        }
  }
  __device__ void soften() {  // scores -> exp(scores - most); sums so far are brought to the new maximum
    const float c = p.scale * kLog2e;
#pragma unroll
    for (int t = 0; t < Tiles; t++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float top = most[t][i];
#pragma unroll
        for (int j = 0; j < Keys / 8; j++) top = fmaxf(top, fmaxf(s[t][j][2 * i], s[t][j][2 * i + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        const float f = exp2_of((most[t][i] - top) * c), less = top * c;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < Keys / 8; j++) {
          s[t][j][2 * i] = exp2_of(s[t][j][2 * i] * c - less), s[t][j][2 * i + 1] = exp2_of(s[t][j][2 * i + 1] * c - less);
          sum += s[t][j][2 * i] + s[t][j][2 * i + 1];
        }
        most[t][i] = top, weight[t][i] = weight[t][i] * f + sum;
#pragma unroll
        for (int j = 0; j < DP / 8; j++) o[t][j][2 * i] *= f, o[t][j][2 * i + 1] *= f;
      }
  }
  __device__ void weigh() {
    const uint32_t v_at = shared_address(v + lane % 16 * kLd + lane / 16 * 8);
    uint32_t a[Tiles][4], b[2][4];
    ldmatrix_t(b[0], v_at);
#pragma unroll
    for (int i = 0; i < Keys / 16 * (DP / 16); i++) {
      const int j = i / (DP / 16), d = i % (DP / 16), next = i + 1;
      if (d == 0)
#pragma unroll
        for (int t = 0; t < Tiles; t++)
#pragma unroll
          for (int e = 0; e < 4; e++) a[t][e] = pack(s[t][2 * j + e / 2][e % 2 * 2], s[t][2 * j + e / 2][e % 2 * 2 + 1], T());
      if (next < Keys / 16 * (DP / 16)) ldmatrix_t(b[next % 2], v_at + (next / (DP / 16) * 16 * kLd + next % (DP / 16) * 16) * 2);
#pragma unroll
      for (int t = 0; t < Tiles; t++)
        mma<T>(o[t][2 * d], a[t], b[i % 2][0], b[i % 2][1]), mma<T>(o[t][2 * d + 1], a[t], b[i % 2][2], b[i % 2][3]);
    }
  }
  __device__ void run() {
    int64_t units = look_up(0);
    fetch_q();
    fetch(k, p.k, units, 0);
    copy_commit();
    const bool rows = tile.row + warp_row() < tile.rows;  // whether this warp has any
    for (int key = 0; key < tile.keys; key += Keys) {
      copy_wait<0>();
      __syncthreads();  // k is there, v's buffer is free
      fetch(v, p.v, units, key);
      copy_commit();
      units = look_up(key + Keys);
      const int seen = tile.position + warp_row() - key;  // this warp's first row sees keys up to key + seen
      const bool busy = rows && seen + Tiles * 16 > 0;
      if (busy) {
        scores();
        if (seen < Keys - 1) hide_later(key);
        soften();
      }
      copy_wait<0>();
      __syncthreads();  // v is there, k's buffer is free
      if (key + Keys < tile.keys) fetch(k, p.k, units, key + Keys);
      copy_commit();
      if (busy) weigh();
    }
    if (rows) finish();
  }
  __device__ void finish() {  // through this warp's own part of q, for whole vectors
    T* mine = q + warp_row() * kLd;
#pragma unroll
    for (int t = 0; t < Tiles; t++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float total = weight[t][i];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        const float f = 1 / total;
#pragma unroll
        for (int j = 0; j < DP / 8; j++)
          *reinterpret_cast<uint32_t*>(mine + (t * 16 + i * 8 + lane / 4) * kLd + j * 8 + lane % 4 * 2) =
              pack(o[t][j][2 * i] * f, o[t][j][2 * i + 1] * f, T());
      }
    __syncwarp();
    for (int i = lane; i < Tiles * 16 * kVectors; i += 32) {
      const int r = i / kVectors, d = i % kVectors * 8, row = tile.row + warp_row() + r;
      if (row >= tile.rows || d >= p.head_dim) continue;
      T* to = static_cast<T*>(p.out) + (tile.first + row) * p.out_ld + int64_t(head) * p.head_dim + d;
      if (p.out_aligned) *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(mine + r * kLd + d);
      else
        for (int e = 0; e < 8; e++) to[e] = mine[r * kLd + d + e];
    }
  }
};

/// grid: (tiles of all sequences, at most; heads). Tiles in reverse, so that those with most keys come first.
template <class P, int Ctas> __global__ void __launch_bounds__(P::kThreads, Ctas) prefill_kernel(const __grid_constant__ Args p) {
  if constexpr (!P::kReplaced) {
    extern __shared__ __align__(128) uint8_t memory[];
    __shared__ int scratch[P::kThreads / 32 + 2];
    const auto count = [&](int s) { return tiles_of<P::kRows>(p, s); };
    const Shares shares(p.seqs, scratch, count);
    if (int(blockIdx.x) >= shares.total) return grid_wait();
    const int2 place = shares.find(shares.total - 1 - int(blockIdx.x), scratch, count);
    const Tile tile(p, place.x, place.y * P::kRows, P::kRows);
    grid_wait();
    P(p, tile, blockIdx.y, memory).run();
  }
}

template <class P, int Ctas> void prefill_with(const Args& args, int32_t max_q, const Stream& stream) {
  const dim3 grid(most_tiles(args, max_q, P::kRows), unsigned(args.heads));
  if (!grid.x) return;
  launch({.name = "attention, prefill", .grid = grid, .block = P::kThreads, .stream = stream, .shared = size_t(P::kBytes)},
         prefill_kernel<P, Ctas>, args);
}
/// Single rows take tiles of one warp, for more keys on their way: the order of a row's sums is the same in all of one head size.
template <class T> void prefill_16bit(const Args& args, int32_t max_q, const Stream& stream) {
  const int D = args.head_dim;
  if (args.most_rows == 1) {
    if (D <= 64) prefill_with<Prefill<T, 64, 1, 1, 64>, 6>(args, max_q, stream);
    else if (D <= 80) prefill_with<Prefill<T, 80, 1, 1, 64>, 6>(args, max_q, stream);
    else if (D <= 96) prefill_with<Prefill<T, 96, 1, 1, 64>, 6>(args, max_q, stream);
    else if (D <= 128) prefill_with<Prefill<T, 128, 1, 1, 64>, 5>(args, max_q, stream);
    else prefill_with<Prefill<T, 256, 1, 1, 32>, 4>(args, max_q, stream);
    return;
  }
  if (D <= 64) prefill_with<Prefill<T, 64, 2, 4, 64>, 2>(args, max_q, stream);
  else if (D <= 80) prefill_with<Prefill<T, 80, 2, 4, 64>, 2>(args, max_q, stream);
  else if (D <= 96) prefill_with<Prefill<T, 96, 2, 4, 64>, 2>(args, max_q, stream);
  else if (D <= 128) prefill_with<Prefill<T, 128, 2, 4, 64>, 2>(args, max_q, stream);
  else prefill_with<Prefill<T, 256, 1, 4, 32>, 2>(args, max_q, stream);
}

}  // namespace neox::cuda::attn
