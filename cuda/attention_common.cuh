// SPDX-License-Identifier: Apache-2.0
// What the attention kernels share: their argument, values of any type, and the search for a CTA's piece of work.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "attention.h"
#include "base/check.h"

namespace neox::cuda::attn {

constexpr int kUnit = 16;        // positions of one head that decode shares out; a page holds a whole number of them
constexpr int kMaxShares = 512;  // CTAs of a decode kernel at most
constexpr float kLog2e = 1.44269504f;

/// One call, as kernels get it. Pages: [pages][heads][block][head_dim].
struct Args {
  void* qkv;  // [tokens, heads * 3 * head_dim]
  void* out;  // [tokens, heads * head_dim]
  void *k, *v;
  const int32_t *pos, *slot, *q_start, *kv_len, *blocks;  // as in Step
  const float* cos_sin;                                   // as in Rope
  float* partial;                                         // [kMaxShares][2][head_dim + 2] sums, maximum (base 2), weight
  unsigned* arrived;                                      // [kMaxShares] how many of a cut head's partials are there
  int64_t qkv_ld, out_ld;
  int32_t tokens, seqs, blocks_ld, half, heads, head_dim, block;
  float scale;
  DType act, kv;
  bool qkv_aligned, out_aligned;  // rows at multiples of 16 bytes
};

void rotate_append(const Args& args, cudaStream_t stream);
void decode(const Args& args, cudaStream_t stream);
void prefill(const Args& args, int32_t max_q, cudaStream_t stream);
void prefill_f16(const Args& args, int32_t max_q, cudaStream_t stream);
void prefill_bf16(const Args& args, int32_t max_q, cudaStream_t stream);
void prefill_plain(const Args& args, int32_t max_q, cudaStream_t stream);

// --- host ---

inline void must(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail(ErrorKind::runtime, what, ": ", cudaGetErrorString(error));
}
inline int attribute(cudaDeviceAttr attr) {
  int device = 0, value = 0;
  must(cudaGetDevice(&device), "attention: device");
  must(cudaDeviceGetAttribute(&value, attr, device), "attention: device attribute");
  return value;
}
/// Kernels start early, from sm_90 on: once the one before them in the stream allows it or ends. Each calls grid_wait() before it reads or
/// writes what another kernel of the step writes or reads; until then only the step's buffer and the pages of earlier steps.
struct Launch {
  dim3 grid;
  int threads;
  size_t bytes = 0;  // of dynamic shared memory
};
template <class... More>
void launch(void (*kernel)(Args, More...), const Launch& how, cudaStream_t stream, const Args& args, More... more) {
  const auto [grid, threads, bytes] = how;
  if (bytes > 48 * 1024)
    must(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "attention: shared memory");
  cudaFuncAttributes compiled;  // code for older cards has no grid_wait(), whatever card it runs on
  must(cudaFuncGetAttributes(&compiled, kernel), "attention: kernel");
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(unsigned(threads)), config.dynamicSmemBytes = bytes, config.stream = stream;
  config.attrs = &early, config.numAttrs = compiled.ptxVersion >= 90;
  must(cudaLaunchKernelEx(&config, kernel, args, more...), "attention: launch");
}

// --- device ---

#ifdef __CUDACC__
__device__ inline void grid_wait() {  // the kernel before is complete
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void grid_launch() {  // the kernel after may start
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

/// 16 bytes to shared memory without passing a register; zeros unless `real`, and then nothing is read.
__device__ inline void copy16(void* to, const void* from, bool real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(real ? 16 : 0) : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Left> __device__ inline void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory"); }

__device__ inline float2 widen(__half2 x) { return __half22float2(x); }
__device__ inline float2 widen(__nv_bfloat162 x) { return __bfloat1622float2(x); }
template <class T> struct Pair;
template <> struct Pair<__half> { using type = __half2; };
template <> struct Pair<__nv_bfloat16> { using type = __nv_bfloat162; };

/// Eight 16-bit values as they came from memory.
template <class T> __device__ inline void widen8(const uint4& raw, float (&x)[8]) {
  const auto* pairs = reinterpret_cast<const typename Pair<T>::type*>(&raw);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 f = widen(pairs[i]);
    x[2 * i] = f.x, x[2 * i + 1] = f.y;
  }
}

// The type as data: for what is moved once, where a branch costs nothing beside the memory access.
__device__ inline float load(const void* p, DType t, int64_t i) {
  if (t == DType::f32) return static_cast<const float*>(p)[i];
  if (t == DType::f16) return __half2float(static_cast<const __half*>(p)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
}
__device__ inline void store(void* p, DType t, int64_t i, float x) {
  if (t == DType::f32) static_cast<float*>(p)[i] = x;
  else if (t == DType::f16) static_cast<__half*>(p)[i] = __float2half(x);
  else static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16(x);
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

/// Sequences have count(s) pieces of work each. The CTA learns how many there are in all, and may ask whose the i-th is. scratch is shared
/// memory with room for a number from each warp and two more.
struct Shares {
  int total, first, chunk, mine;  // pieces; of this thread's sequences: the first, their number, and the pieces before them

  template <int N, class Count> __device__ Shares(int seqs, int (&scratch)[N], Count count) {
    constexpr int Threads = (N - 2) * 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    chunk = (seqs + Threads - 1) / Threads, first = min(int(threadIdx.x) * chunk, seqs), chunk = min(chunk, seqs - first);
    int sum = 0;
    for (int i = 0; i < chunk; i++) sum += count(first + i);
    mine = sum;
    for (int o = 1; o < 32; o *= 2) {
      const int below = __shfl_up_sync(~0u, mine, o);
      if (lane >= o) mine += below;
    }
    if (lane == 31) scratch[warp] = mine;
    __syncthreads();
    total = 0;
    int before = 0;
    for (int w = 0; w < Threads / 32; w++) {
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
#endif

}  // namespace neox::cuda::attn
