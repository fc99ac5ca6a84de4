// SPDX-License-Identifier: Apache-2.0
// Attention of prefill rows in plain f32: for f32 models, and wherever activations and pages differ in type. Values are widened exactly on
// their way into shared memory. A CTA takes one head and a tile of a sequence's rows; 16 lanes share 4 rows: of S each lane has 2 of 32
// keys, of O every 16th vector of 4 columns. k and v take turns in one buffer [32][DP + 4]; P [rows][32 + 4] is read only by the lanes that
// wrote it. Floor: 4 head_dim operations per row, head and key seen, on the FMA units (67 TFLOP/s on an H100); k and v once per tile from
// L2. Instantiations: 3 (head sizes up to 64, 128, 256); types are data.
#include "attention_prefill.cuh"

namespace neox::cuda::attn {
namespace {

template <int DP, int Rows> struct Plain {
  static constexpr bool kReplaced = false;
  static constexpr int kRows = Rows, kThreads = Rows / 4 * 16, kKeys = 32, kLd = DP + 4, kScoreLd = kKeys + 4, kVectors = DP / 8;
  static constexpr int kBytes = (kRows * kLd + kKeys * kLd + kRows * kScoreLd) * 4;

  const Args& p;
  const Tile& tile;
  const int head, lane, row;  // lane of 16; its first row
  float *q, *kv, *scores;
  float o[4][DP / 64][4], most[4], weight[4];

  __device__ Plain(const Args& a, const Tile& t, int h, void* memory)
      : p(a), tile(t), head(h), lane(threadIdx.x % 16), row(threadIdx.x / 16 * 4), q(static_cast<float*>(memory)), kv(q + kRows * kLd),
        scores(kv + kKeys * kLd) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
      most[r] = -INFINITY, weight[r] = 0;
#pragma unroll
      for (int j = 0; j < DP / 64; j++)
        for (int i = 0; i < 4; i++) o[r][j][i] = 0;
    }
  }
  static __device__ void put(float* to, const float (&x)[8]) {
    reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
  }
  __device__ void fetch_q() {
    for (int i = threadIdx.x; i < kRows * kVectors; i += kThreads) {
      const int r = i / kVectors, d = i % kVectors * 8;
      float x[8] = {};
      if (tile.row + r < tile.rows && d < p.head_dim)
        load8(p.qkv, p.act, (tile.first + tile.row + r) * p.qkv_ld + int64_t(head) * 3 * p.head_dim + d, p.qkv_aligned, x);
      for (float& y : x) y *= p.scale * kLog2e;
      put(q + r * kLd + d, x);
    }
  }
  __device__ void fetch(const void* pages, int key) {
    for (int i = threadIdx.x; i < kKeys * kVectors; i += kThreads) {
      const int r = i / kVectors, d = i % kVectors * 8, unit = r / kUnit * kUnit;
      float x[8] = {};
      if (key + r < tile.keys && d < p.head_dim)
        load8(pages, p.kv, unit_at(p, tile.s, head, key + unit) + int64_t(r - unit) * p.head_dim + d, true, x);
      put(kv + r * kLd + d, x);
    }
  }
  static __device__ float dot(const float4& a, const float4& b, float c) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, c))));
  }
  __device__ void score(int key) {  // into P, as exp2(score - most)
    float s[4][2] = {};
#pragma unroll 4
    for (int d = 0; d < DP; d += 4) {
      const float4 k0 = *reinterpret_cast<const float4*>(kv + lane * kLd + d),
                   k1 = *reinterpret_cast<const float4*>(kv + (lane + 16) * kLd + d);
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float4 x = *reinterpret_cast<const float4*>(q + (row + r) * kLd + d);
        s[r][0] = dot(x, k0, s[r][0]), s[r][1] = dot(x, k1, s[r][1]);
      }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
      for (int j = 0; j < 2; j++)
        if (key + lane + 16 * j > tile.position + row + r) s[r][j] = -INFINITY;
      float top = fmaxf(most[r], fmaxf(s[r][0], s[r][1]));
      for (int i = 1; i < 16; i *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, i));
      const float f = exp2f(most[r] - top), p0 = exp2f(s[r][0] - top), p1 = exp2f(s[r][1] - top);
      most[r] = top, weight[r] = weight[r] * f + p0 + p1;
      scores[(row + r) * kScoreLd + lane] = p0, scores[(row + r) * kScoreLd + lane + 16] = p1;
#pragma unroll
      for (int j = 0; j < DP / 64; j++)
        for (int i = 0; i < 4; i++) o[r][j][i] *= f;
    }
  }
  __device__ void weigh() {
#pragma unroll 2
    for (int key = 0; key < kKeys; key += 4) {
      float w[4][4];
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float4 x = *reinterpret_cast<const float4*>(scores + (row + r) * kScoreLd + key);
        w[r][0] = x.x, w[r][1] = x.y, w[r][2] = x.z, w[r][3] = x.w;
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < DP / 64; j++) {
          const float4 x = *reinterpret_cast<const float4*>(kv + (key + i) * kLd + j * 64 + lane * 4);
#pragma unroll
          for (int r = 0; r < 4; r++)
            o[r][j][0] += w[r][i] * x.x, o[r][j][1] += w[r][i] * x.y, o[r][j][2] += w[r][i] * x.z, o[r][j][3] += w[r][i] * x.w;
        }
    }
  }
  __device__ void run() {
    fetch_q();
    for (int key = 0; key < tile.keys; key += kKeys) {
      __syncthreads();
      fetch(p.k, key);
      __syncthreads();
      score(key);
      __syncthreads();  // P as well as k
      fetch(p.v, key);
      __syncthreads();
      weigh();
    }
    finish();
  }
  __device__ void finish() {
#pragma unroll
    for (int r = 0; r < 4; r++) {
      float total = weight[r];
      for (int i = 1; i < 16; i *= 2) total += __shfl_xor_sync(~0u, total, i);
      if (tile.row + row + r >= tile.rows) continue;
      const int64_t to = (tile.first + tile.row + row + r) * p.out_ld + int64_t(head) * p.head_dim;
#pragma unroll
      for (int j = 0; j < DP / 64; j++)
        for (int i = 0; i < 4; i++)
          if (const int d = j * 64 + lane * 4 + i; d < p.head_dim) store(p.out, p.act, to + d, o[r][j][i] / total);
    }
  }
};

}  // namespace

void prefill_plain(const Args& args, int32_t max_q, const Stream& stream) {
  if (args.head_dim <= 64) prefill_with<Plain<64, 64>, 2>(args, max_q, stream);
  else if (args.head_dim <= 128) prefill_with<Plain<128, 64>, 2>(args, max_q, stream);
  else prefill_with<Plain<256, 32>, 2>(args, max_q, stream);
}

void prefill(const Args& args, int32_t max_q, const Stream& stream) {
  if (args.act == DType::f16 && args.kv == DType::f16) prefill_f16(args, max_q, stream);
  else if (args.act == DType::bf16 && args.kv == DType::bf16) prefill_bf16(args, max_q, stream);
  else prefill_plain(args, max_q, stream);
}

void decode_as_prefill(Args args, const Stream& stream) {
  args.least_rows = args.most_rows = 1;
  prefill(args, 1, stream);
}

}  // namespace neox::cuda::attn
