// SPDX-License-Identifier: Apache-2.0
// Instructions without a name in CUDA C++, and all that depends on the architecture that code is compiled for.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace neox::cuda {

#if __CUDA_ARCH__ >= 900
constexpr bool kHopper = true;  // this code may use bulk copies, and start before the kernel before it ends
#else
constexpr bool kHopper = false;
#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kWarpgroups = true;  // this code may multiply by warpgroups, which compute capability 9.0 alone can (sm_90a)
#else
constexpr bool kWarpgroups = false;
#endif

// Early start: a kernel may start before the one before it in the stream has ended. Each calls grid_wait(), in every thread that does
// anything: before that it reads nothing but weights and writes nothing, since what else there is may still be in use; after it all earlier
// kernels are complete. Attention reads the step's lists and older pages before, too: whatever writes these comes before embed, or is no
// kernel that starts early, and embed lets others start only once it has waited.

__device__ inline void grid_wait() {
  if constexpr (kHopper) asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ inline void grid_launch() {  // the kernel after may start, once all CTAs have said so
  if constexpr (kHopper) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

constexpr float kLog2e = 1.44269504f;

// The special function unit: within 2^-22 of the result; subnormal results become 0.

__device__ inline float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float log2_of(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Copies to shared memory that pass no register.

__device__ inline uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

/// 16 bytes; zeros unless `real`, and then nothing is read.
__device__ inline void copy16(void* to, const void* from, bool real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(real ? 16 : 0) : "memory");
}
/// Asks for the line of 128 bytes around p, no farther than into the L2 cache.
__device__ inline void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until this thread's copies are there, but for those of its `Left` last commits.
template <int Left> __device__ inline void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory"); }
template <int Most> __device__ inline void copy_wait(int left) {  // left <= Most
  if (left >= Most) copy_wait<Most>();
  else if constexpr (Most > 0) copy_wait<Most - 1>(left);
}

// Tensor cores: m16n8k16 products of 16-bit values, summed in f32.

template <class T> __device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <> __device__ inline void mma<__half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> __device__ inline void mma<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void ldmatrix(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}
__device__ inline void ldmatrix_t(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

/// Units in as many contiguous shares as there are CTAs, equal but for one.
struct Cut {
  int total, shares;
  __device__ int begin(int share) const { return int(int64_t(share) * total / shares); }
  __device__ int owner(int unit) const { return int((int64_t(unit + 1) * shares - 1) / total); }
};
/// Counts what this warp has written as there, and returns how many were before. All that the warp wrote is seen by whoever counts later.
__device__ inline unsigned arrive(unsigned* count) {
  unsigned before = 0;
  __syncwarp();
  if (threadIdx.x % 32 == 0) asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
  return __shfl_sync(~0u, before, 0);
}

}  // namespace neox::cuda
