// SPDX-License-Identifier: Apache-2.0
// What GPUs of compute capability 9.0 have for copies in the background and products by warpgroups; used where kWarpgroups is true.
#pragma once
#include <cuda.h>

#include "device.cuh"

namespace neox::cuda {

// Barriers in shared memory: a phase ends with its last arrival, once all bytes that it expects are there; it is told by its parity.

__device__ inline void barrier_init(uint64_t* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
__device__ inline void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ inline void barrier_expect(uint64_t* b, int bytes) {  // arrives, too
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
__device__ inline void barrier_wait(uint64_t* b, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}

// Boxes of what a CUtensorMap describes, from the coordinates given on, its fastest one first.

// A copy's policy says what the L2 cache drops sooner, or later, than all else.
__device__ inline uint64_t drop_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
  return policy;
}
__device__ inline uint64_t drop_last() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0;" : "=l"(policy));
  return policy;
}
__device__ inline void copy_box(void* to, const CUtensorMap* map, int c0, int c1, uint64_t* arrival, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
          shared_address(to)),
      "l"(map), "r"(c0), "r"(c1), "r"(shared_address(arrival)), "l"(policy)
      : "memory");
}
__device__ inline void copy_box(void* to, const CUtensorMap* map, int c0, int c1, int c2, int c3, uint64_t* arrival, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], "
      "%7;" ::"r"(shared_address(to)),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(arrival)), "l"(policy)
      : "memory");
}
__device__ inline void copy_box(void* to, const CUtensorMap* map, int c0, int c1, uint64_t* arrival) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
      "l"(map), "r"(c0), "r"(c1), "r"(shared_address(arrival))
      : "memory");
}
__device__ inline void copy_box(void* to, const CUtensorMap* map, int c0, int c1, int c2, uint64_t* arrival) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
                   shared_address(to)),
               "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(arrival))
               : "memory");
}
// No farther than into the L2 cache.
__device__ inline void prefetch_box(const CUtensorMap* map, int c0, int c1) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(c0), "r"(c1) : "memory");
}
__device__ inline void prefetch_box(const CUtensorMap* map, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global [%0, {%1, %2, %3, %4}];" ::"l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
__device__ inline void prefetch_map(const CUtensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

/// True in one lane of a whole warp. The compiler knows that it is one, and makes no loop over lanes of what they copy.
__device__ inline bool one_of_warp() {
  uint32_t one;
  asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(one));
  return one;
}

// How many registers a warpgroup's threads have from here on, of those that the kernel was launched with.
template <int Registers> __device__ inline void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers)); }
template <int Registers> __device__ inline void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers)); }

/// What this thread has stored in shared memory is seen by products that start later; a barrier tells others' threads.
__device__ inline void publish_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Products by a warpgroup: sums [64, N] += a [64, 16] b [N, 16]^T, f32 and 16-bit values. Thread t has those of a's rows
// t / 32 * 16 + t % 32 / 4 and 8 further, and for every 8 rows of b those at t % 4 * 2 and 1 further: in fours (row 0: b 0, 1; row 8: b 0,
// 1).

/// Rows of 128 bytes in shared memory, every 8 of which begin at a multiple of 1024, `apart` bytes further than the 8 before, and where
/// vector v of row r lies at v ^ (r % 8).
__device__ inline uint64_t descriptor(const void* rows, int apart) {
  return uint64_t(shared_address(rows) >> 4) | uint64_t(1) << 16 | uint64_t(apart >> 4) << 32 | uint64_t(1) << 62;
}
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_wait() { asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
/// Keeps what the compiler does with sums out of the time that products write them.
template <int N> __device__ inline void pin(float (&sums)[N]) {
#pragma unroll
  for (float& s : sums) asm volatile("" : "+f"(s)::"memory");
}

#define NEOX_8(o) "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3]), "+f"(d[o + 4]), "+f"(d[o + 5]), "+f"(d[o + 6]), "+f"(d[o + 7])
#define NEOX_PRODUCT(n, type, registers, a_at, b_at, ...)                                                                            \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" registers "}, " a_at ", " b_at ", 1, 1, 1, 0, 0;" \
               : __VA_ARGS__                                                                                                         \
               : "l"(a), "l"(b))
#define NEOX_R8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define NEOX_R16 NEOX_R8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define NEOX_R32 NEOX_R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NEOX_PRODUCTS(T, type)                                                                                                      \
  template <> struct Products<T> {                                                                                                  \
    static __device__ void add(float (&d)[4], uint64_t a, uint64_t b) {                                                             \
      NEOX_PRODUCT("8", type, "%0,%1,%2,%3", "%4", "%5", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));                           \
    }                                                                                                                               \
    static __device__ void add(float (&d)[8], uint64_t a, uint64_t b) { NEOX_PRODUCT("16", type, NEOX_R8, "%8", "%9", NEOX_8(0)); } \
    static __device__ void add(float (&d)[16], uint64_t a, uint64_t b) {                                                            \
      NEOX_PRODUCT("32", type, NEOX_R16, "%16", "%17", NEOX_8(0), NEOX_8(8));                                                       \
    }                                                                                                                               \
    static __device__ void add(float (&d)[32], uint64_t a, uint64_t b) {                                                            \
      NEOX_PRODUCT("64", type, NEOX_R32, "%32", "%33", NEOX_8(0), NEOX_8(8), NEOX_8(16), NEOX_8(24));                               \
    }                                                                                                                               \
  }
template <class T> struct Products;
NEOX_PRODUCTS(__half, "f16");
NEOX_PRODUCTS(__nv_bfloat16, "bf16");
#undef NEOX_PRODUCTS
#undef NEOX_R32
#undef NEOX_R16
#undef NEOX_R8
#undef NEOX_PRODUCT
#undef NEOX_8

/// 8 rows of 8 values of 16 bits, a row to four lanes, a pair to a lane: its transpose.
__device__ inline uint32_t transposed(uint32_t pair) {
  uint32_t t;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(pair));
  return t;
}

// Counts in global memory by which CTAs tell each other that what they wrote is there.

__device__ inline void add_release(unsigned* count) { asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory"); }
__device__ inline unsigned load_acquire(const unsigned* count) {
  unsigned n;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(count) : "memory");
  return n;
}

}  // namespace neox::cuda
