// SPDX-License-Identifier: Apache-2.0
// Rotary embedding of q (in place) and k, and append of k and v to their pages.
// qkv [tokens, heads, 3, head_dim]; pages [pages][heads][block][head_dim]. A CTA takes some heads' q, k or v (rows) of one token, 8
// elements a thread, kTurns times; elements i < half turn with i + half, and find each other in shared memory. Floor: a token and head
// moves 4 head_dim activations (q, k, v in, q out) and 2 head_dim of the cache's type; no arithmetic to speak of. Also zeroes the arrival
// counts of the decode kernel, which follows. No template instantiations.
#include "attention_common.cuh"

namespace neox::cuda::attn {
namespace {

constexpr int kThreads = 256, kTurns = 2;

/// x: elements d to d + 8 of `row`, a whole q or k in shared memory.
__device__ void rotate8(const float* row, const float* cos_sin, int half, int d, float (&x)[8]) {
#pragma unroll
  for (int e = 0; e < 8; e++) {
    if (d + e >= 2 * half) break;
    const bool low = d + e < half;
    const int i = low ? d + e : d + e - half;
    const float other = row[low ? d + e + half : i];
    x[e] = x[e] * cos_sin[i] + (low ? -other : other) * cos_sin[half + i];
  }
}

/// grid: (tokens, parts of the 3 * heads rows); rows: of a turn
__global__ void __launch_bounds__(kThreads) rotate_append_kernel(const __grid_constant__ Args p, int rows) {
  __shared__ __align__(16) float values[kTurns][kThreads * 8], cos_sin[256];
  grid_wait();
  grid_launch();  // not before: those that follow read what is older than this kernel before they wait
  if (blockIdx.x == 0 && blockIdx.y == 0)
    for (int i = threadIdx.x; i < kMaxShares; i += kThreads) p.arrived[i] = 0;
  const int slot = p.slot[blockIdx.x], pos = p.pos[blockIdx.x], vectors = p.head_dim / 8;
  const int in_turn = int(threadIdx.x) / vectors, d = int(threadIdx.x) % vectors * 8;
  const int64_t token = int64_t(blockIdx.x) * p.qkv_ld;
  int row[kTurns];
  float x[kTurns][8];
#pragma unroll
  for (int t = 0; t < kTurns; t++) {
    row[t] = in_turn < rows ? (int(blockIdx.y) * kTurns + t) * rows + in_turn : 3 * p.heads;
    if (row[t] < 3 * p.heads) load8(p.qkv, p.act, token + row[t] * p.head_dim + d, p.qkv_aligned, x[t]);
  }
  if (slot < 0) return;
  for (int i = threadIdx.x; i < 2 * p.half; i += kThreads) cos_sin[i] = p.cos_sin[int64_t(pos) * 2 * p.half + i];
#pragma unroll
  for (int t = 0; t < kTurns; t++)
    if (row[t] < 3 * p.heads && d < 2 * p.half) {
      auto* to = reinterpret_cast<float4*>(values[t] + threadIdx.x * 8);
      to[0] = make_float4(x[t][0], x[t][1], x[t][2], x[t][3]), to[1] = make_float4(x[t][4], x[t][5], x[t][6], x[t][7]);
    }
  __syncthreads();
  const int64_t place = (int64_t(slot / p.block) * p.heads * p.block + slot % p.block) * p.head_dim + d;
#pragma unroll
  for (int t = 0; t < kTurns; t++) {
    if (row[t] >= 3 * p.heads) continue;
    const int head = row[t] / 3, part = row[t] % 3;
    if (part < 2) rotate8(values[t] + in_turn * p.head_dim, cos_sin, p.half, d, x[t]);
    if (part == 0) store8(p.qkv, p.act, token + row[t] * p.head_dim + d, p.qkv_aligned, x[t]);
    else store8(part == 1 ? p.k : p.v, p.kv, place + int64_t(head) * p.block * p.head_dim, true, x[t]);
  }
}

}  // namespace

void rotate_append(const Args& args, const Stream& stream) {
  const int rows = kThreads / (args.head_dim / 8), parts = (3 * args.heads + rows * kTurns - 1) / (rows * kTurns);
  launch(
      {.name = "attention, rotate and append", .grid = dim3(unsigned(args.tokens), unsigned(parts)), .block = kThreads, .stream = stream},
      rotate_append_kernel, args, rows);
}

}  // namespace neox::cuda::attn
