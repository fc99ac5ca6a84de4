// SPDX-License-Identifier: Apache-2.0
// Element types on the device, and reductions over a CTA.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "base/dtype.h"

namespace neox::cuda {

template <DType T> struct ElementOf { using type = float; };
template <> struct ElementOf<DType::f16> { using type = __half; };
template <> struct ElementOf<DType::bf16> { using type = __nv_bfloat16; };
template <DType T> using Element = typename ElementOf<T>::type;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// To nearest even; what f16 cannot hold becomes infinite.
template <class To> __device__ inline To narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

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

/// Neighbouring elements that move as one access.
template <class E, int n> struct alignas(sizeof(E) * n) Pack { E v[n]; };

template <class T> __device__ inline T shuffle_xor(T value, int lanes) {
  static_assert(sizeof(T) % 4 == 0);
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
  for (uint32_t& w : words) w = __shfl_xor_sync(~0u, w, lanes);
  memcpy(&value, words, sizeof(T));
  return value;
}

/// op over all threads' values, for every thread, in an order that depends on nothing but the number of threads (whole warps).
/// op is symmetric; op(x, none) = x.
template <class T, class Op> __device__ T reduce(T value, T none, Op op) {
  __shared__ T parts[32];  // of each warp
  for (int lanes = 16; lanes > 0; lanes /= 2) value = op(value, shuffle_xor(value, lanes));
  __syncthreads();  // an earlier call's parts have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : none;
  for (int lanes = 16; lanes > 0; lanes /= 2) value = op(value, shuffle_xor(value, lanes));
  return value;
}
template <class T> __device__ T reduce_sum(T value) {
  return reduce(value, T(0), [](T a, T b) { return a + b; });
}

}  // namespace neox::cuda
