// SPDX-License-Identifier: Apache-2.0
// The products of prefill attention by warpgroups: sums [64, N] of 64 to 256 columns, with operands along their depth and across it. Groups
// of them run beside other instructions, and end in order.
#pragma once
#include "hopper.cuh"

namespace neox::cuda {

__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until all groups but the last `Left` have ended; sums are of one of those.
template <int Left, int N> __device__ inline void products_end(float (&sums)[N]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
  pin(sums);
}

/// Rows of RowBytes (64 or 128) in shared memory, side by side, as copies of boxes swizzle them. Wider operands are several such stripes,
/// at multiples of 1024 bytes; apart: from one to the next, for by_columns.
template <int RowBytes> __device__ inline uint64_t stripes(const void* at, uint32_t apart = 16) {
  static_assert(RowBytes == 64 || RowBytes == 128);
  return uint64_t(shared_address(at) >> 4) | uint64_t(apart >> 4) << 16 | uint64_t(8 * RowBytes >> 4) << 32 |
         uint64_t(RowBytes == 128 ? 1 : 2) << 62;
}
__device__ inline uint64_t operand_at(uint64_t operand, uint32_t bytes) {  // no carry into the upper half
  return (operand & 0xffffffff00000000) | uint32_t(uint32_t(operand) + (bytes >> 4));
}

/// by_rows: D = A B (or D += A B), where A's rows and B's columns lie along the depth of 16. by_columns: D += A B with A in registers, as
/// mma() has it in each of the four warps, and B's rows across the depth.
template <class T, int N> struct TileProducts;

#define NEOX_8(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define NEOX_32(d, i) NEOX_8(d, i), NEOX_8(d, i + 8), NEOX_8(d, i + 16), NEOX_8(d, i + 24)
#define NEOX_PRODUCTS(T, NAME, N, D, SUMS, X0, X1, X2, X3, X4, X5)                                                                      \
  template <> struct TileProducts<T, N> {                                                                                               \
    static __device__ void by_rows(float (&d)[N / 2], uint64_t a, uint64_t b, bool add) {                                               \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, " X2 ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" SUMS  \
                   "}, " X0 ", " X1 ", p, 1, 1, 0, 0; }"                                                                                \
                   : D                                                                                                                  \
                   : "l"(a), "l"(b), "r"(int(add)));                                                                                    \
    }                                                                                                                                   \
    static __device__ void by_columns(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) {                                          \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" SUMS "}, {" X0 ", " X1 ", " X2 ", " X3 "}, " X4 \
                   ", 1, 1, 1, 1;"                                                                                                      \
                   : D                                                                                                                  \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                               \
    }                                                                                                                                   \
  };
#define NEOX_PRODUCTS_OF(N, D, SUMS, ...)                           \
  NEOX_PRODUCTS(__half, "f16", N, NEOX_UNPACK D, SUMS, __VA_ARGS__) \
  NEOX_PRODUCTS(__nv_bfloat16, "bf16", N, NEOX_UNPACK D, SUMS, __VA_ARGS__)
#define NEOX_UNPACK(...) __VA_ARGS__
#define NEOX_S0_31                                                                                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29" \
  ",%30,%31"
#define NEOX_S32_39 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define NEOX_S40_47 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define NEOX_S48_63 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NEOX_S64_127                                                                                             \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90" \
  ",%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113"   \
  ",%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
NEOX_PRODUCTS_OF(64, (NEOX_32(d, 0)), NEOX_S0_31, "%32", "%33", "%34", "%35", "%36", "%37")
NEOX_PRODUCTS_OF(80, (NEOX_32(d, 0), NEOX_8(d, 32)), NEOX_S0_31 NEOX_S32_39, "%40", "%41", "%42", "%43", "%44", "%45")
NEOX_PRODUCTS_OF(96, (NEOX_32(d, 0), NEOX_8(d, 32), NEOX_8(d, 40)), NEOX_S0_31 NEOX_S32_39 NEOX_S40_47, "%48", "%49", "%50", "%51", "%52",
                 "%53")
NEOX_PRODUCTS_OF(128, (NEOX_32(d, 0), NEOX_32(d, 32)), NEOX_S0_31 NEOX_S32_39 NEOX_S40_47 NEOX_S48_63, "%64", "%65", "%66", "%67", "%68",
                 "%69")
NEOX_PRODUCTS_OF(256, (NEOX_32(d, 0), NEOX_32(d, 32), NEOX_32(d, 64), NEOX_32(d, 96)),
                 NEOX_S0_31 NEOX_S32_39 NEOX_S40_47 NEOX_S48_63 NEOX_S64_127, "%128", "%129", "%130", "%131", "%132", "%133")
#undef NEOX_PRODUCTS
#undef NEOX_PRODUCTS_OF
#undef NEOX_UNPACK
#undef NEOX_8
#undef NEOX_32
#undef NEOX_S0_31
#undef NEOX_S32_39
#undef NEOX_S40_47
#undef NEOX_S48_63
#undef NEOX_S64_127

}  // namespace neox::cuda
