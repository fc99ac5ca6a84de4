// SPDX-License-Identifier: Apache-2.0
// y = act(x W^T + bias) where both are integers: w8a8 and w4a8. Compiled once per instruction set, and once more for AVX512-VNNI.
// Sums of products of bytes are exact, so their order does not matter: over all of K for w8a8, over a group for w4a8, whose groups are
// added in order in f32. A row has the same bits alone and in any batch, on any number of threads, and on every instruction set.
#include <algorithm>
#include <cstring>

#include "cpu/isa.h"
#include "cpu/math.h"
#include "cpu/panels.h"
#include NEOX_DOT

namespace neox::NEOX_ISA {
namespace {

struct Tile {  // some rows against P panels
  const int8_t* q;
  int64_t ldq;
  const float* scale;     // [rows]
  const int32_t* offset;  // [rows, groups]
  int64_t groups;
  const char* w;     // a panel
  int64_t w_stride;  // bytes from a panel to the next of the P
  int64_t K, group;
  float* y;
  int64_t ldy, y_stride;  // columns from a panel's outputs to the next panel's
  const float* bias;      // or null
  bool add;               // to what y holds
  int last;               // outputs of the last of the P panels, 1 .. 16
};

// As linear.cpp's: past the second cache where memory is the limit, from far ahead and in two steps for more rows.
template <int rows> INL void fetch(const char* line) {
  if constexpr (rows <= 4) {
    __builtin_prefetch(line + 256, 0, 0);
  } else {
    __builtin_prefetch(line + 8192, 0, 2);
    __builtin_prefetch(line + 2048, 0, 3);
  }
}

// Loops over constant bounds, so that the accumulators are registers: g++ 12 does not inline a lambda of that size, and drops one that
// holds only a prefetch.
#define UNROLLED _Pragma("GCC unroll 16") for

INL I four(const int8_t* q) {
  int32_t v;
  std::memcpy(&v, q, 4);
  return set1(v);
}

INL void put(const Tile& t, int m, int p, int panels, F v) {
  float* y = t.y + m * t.ldy + p * t.y_stride;
  const float* bias = t.bias ? t.bias + p * t.y_stride : nullptr;
  if (p + 1 < panels || t.last == kLanes) {
    if (t.add) v = add(load(y), v);
    if (bias) v = add(v, load(bias));
    store(y, v);
  } else {
    if (t.add) v = add(load_first(y, t.last), v);
    if (bias) v = add(v, load_first(bias, t.last));
    store_first(y, v, t.last);
  }
}

template <int MR, int P> void tile8(const Tile& t) {
  I acc[MR][P], w[P];
  UNROLLED(int m = 0; m < MR; m++) UNROLLED(int p = 0; p < P; p++) acc[m][p] = start_i8(t.offset[m * t.groups]);
  const char* b = t.w + 64;
  for (int64_t k = 0; k < t.K; k += 4, b += 64) {
    UNROLLED(int p = 0; p < P; p++) {
      fetch<MR>(b + p * t.w_stride);
      w[p] = load_bits(b + p * t.w_stride);
    }
    UNROLLED(int m = 0; m < MR; m++) {
      const I a = four(t.q + m * t.ldq + k);
      UNROLLED(int p = 0; p < P; p++) acc[m][p] = dot_i8(acc[m][p], w[p], a);
    }
  }
  UNROLLED(int p = 0; p < P; p++) {
    const F scale = load(reinterpret_cast<const float*>(t.w + p * t.w_stride));
    UNROLLED(int m = 0; m < MR; m++) put(t, m, p, P, mul(to_float(acc[m][p]), mul(scale, set1(t.scale[m]))));
  }
}

/// Four of a line's eight k: those in the low halves of its bytes, or those in the high ones.
template <int MR, int P, int half> INL void multiply(const Tile& t, const char* b, const int8_t* q, I (&dot)[MR][P]) {
  I w[P];
  UNROLLED(int p = 0; p < P; p++) w[p] = band(shr<half * 4>(load_bits(b + p * t.w_stride)), set1(0x0f0f0f0f));
  UNROLLED(int m = 0; m < MR; m++) {
    const I a = four(q + m * t.ldq + half * 4);
    UNROLLED(int p = 0; p < P; p++) dot[m][p] = dot_u4(dot[m][p], w[p], a);
  }
}
template <int MR, int P> void tile4(const Tile& t) {
  F acc[MR][P];
  UNROLLED(int m = 0; m < MR; m++) UNROLLED(int p = 0; p < P; p++) acc[m][p] = set1(0.f);
  const char* b = t.w + (t.groups + 1) / 2 * 64;
  for (int64_t g = 0; g < t.groups; g++) {
    I dot[MR][P];
    UNROLLED(int m = 0; m < MR; m++) UNROLLED(int p = 0; p < P; p++) dot[m][p] = set1(t.offset[m * t.groups + g]);
    const int8_t* q = t.q + g * t.group;
    for (int64_t k = 0; k < t.group; k += 8, b += 64) {
      UNROLLED(int p = 0; p < P; p++) fetch<MR>(b + p * t.w_stride);
      multiply<MR, P, 0>(t, b, q + k, dot);
      multiply<MR, P, 1>(t, b, q + k, dot);
    }
    UNROLLED(int p = 0; p < P; p++) {
      const F scale = load_f16(t.w + p * t.w_stride + g * 32);
      UNROLLED(int m = 0; m < MR; m++) acc[m][p] = fma(to_float(dot[m][p]), scale, acc[m][p]);
    }
  }
  UNROLLED(int m = 0; m < MR; m++) UNROLLED(int p = 0; p < P; p++) put(t, m, p, P, mul(acc[m][p], set1(t.scale[m])));
}

// The tiles of a format, by rows: with as many panels side by side (memory streams) as registers allow, with two, and with one.
using TileFn = void (*)(const Tile&);
constexpr bool kWideFile = kAccumulators > 8;
constexpr int kPair = kWideFile ? 2 : 1;
constexpr int panels_for(int registers, int rows) {  // registers of one row and panel
  if (!kWideFile) return registers * rows == 1 ? 4 : registers * rows == 2 ? 2 : 1;
  return std::clamp(kAccumulators / (registers * rows), 1, rows <= 2 ? 2 : 4);
}
struct Int8 {
  static constexpr int kRegisters = 1;
  static constexpr int kFew = kWideFile ? 16 : 6;   // rows of a tile where memory is the limit
  static constexpr int kMany = kWideFile ? 12 : 6;  // and where arithmetic is
  template <int rows, int P> static constexpr TileFn kTile = tile8<rows, P>;
};
struct Int4 {
  static constexpr int kRegisters = 2, kFew = kWideFile ? 12 : 2, kMany = kWideFile ? 6 : 2;
  template <int rows, int P> static constexpr TileFn kTile = tile4<rows, P>;
};
template <class T, class = std::make_integer_sequence<int, T::kFew>> struct Tiles;
template <class T, int... i> struct Tiles<T, std::integer_sequence<int, i...>> {
  static constexpr TileFn side_by_side[] = {nullptr, T::template kTile<i + 1, panels_for(T::kRegisters, i + 1)>...};
  static constexpr TileFn pair[] = {nullptr, (i < T::kMany ? T::template kTile<std::min(i + 1, T::kMany), kPair> : nullptr)...};
  static constexpr TileFn one[] = {nullptr, T::template kTile<i + 1, 1>...};
};

struct Problem {
  const LinearTask& task;
  const NarrowRows& x = *task.narrow;
  const Tensor &y = task.args.out, &w = task.args.w.weight;
  const int64_t M = y.rows, N = w.rows, K = w.cols;
  const float* bias = task.args.w.bias ? task.args.w.bias.row(0) : nullptr;
  const size_t bytes = panel_bytes(K, w.format());

  int outputs(int64_t p) const { return int(std::min<int64_t>(N - p * kLanes, kLanes)); }
  /// The g-th of `groups` nearly equal groups of rows, against panels p, p + stride, ... up to and including `end`.
  void run(const TileFn* tiles, int64_t p, int64_t stride, int64_t end, int64_t groups, int64_t g) const {
    const int64_t m = M * g / groups, rows = M * (g + 1) / groups - m;
    tiles[rows]({.q = x.q + m * x.ld,
                 .ldq = x.ld,
                 .scale = x.scale + m,
                 .offset = x.offset + m * x.groups,
                 .groups = x.groups,
                 .w = static_cast<const char*>(w.data) + p * bytes,
                 .w_stride = int64_t(stride * bytes),
                 .K = K,
                 .group = w.group,
                 .y = y.row(m) + p * kLanes,
                 .ldy = y.ld,
                 .y_stride = stride * kLanes,
                 .bias = bias ? bias + p * kLanes : nullptr,
                 .add = task.accumulate,
                 .last = outputs(end)});
  }
};

template <class T> void few_rows(const Problem& a, int64_t p0, int64_t p1) {
  const int64_t groups = (a.M + T::kFew - 1) / T::kFew, P = groups == 1 ? panels_for(T::kRegisters, int(a.M)) : 1;
  by_streams(a, p0, p1, P, [&](int64_t p, int64_t stride, int64_t n) {
    const TileFn* tiles = groups == 1 && n == P ? Tiles<T>::side_by_side : Tiles<T>::one;
    for (int64_t g = 0; g < groups; g++) a.run(tiles, p, stride, p + (n - 1) * stride, groups, g);
  });
}

// Many rows, bound by arithmetic: a group of rows stays in the first-level cache, a chunk of panels in the second.
template <class T> void many_rows(const Problem& a, int64_t p0, int64_t p1) {
  const auto chunk = std::max<int64_t>(kPair, int64_t(kWideBytes / a.bytes) / kPair * kPair);
  const int64_t groups = (a.M + T::kMany - 1) / T::kMany;
  for (int64_t c = p0, end; c < p1; c = end) {
    end = std::min(c + chunk, p1);
    for (int64_t g = 0; g < groups; g++)
      for (int64_t p = c, n; p < end; p += n) {
        n = p + kPair <= end ? kPair : 1;
        a.run(n == kPair ? Tiles<T>::pair : Tiles<T>::one, p, 1, p + n - 1, groups, g);
      }
    for (int64_t p = c; p < end; p++) finish(a, p);
  }
}

template <class T> void run(const Problem& a, int64_t p0, int64_t p1) {
  if (a.M == 0) return;
  a.M <= 16 ? few_rows<T>(a, p0, p1) : many_rows<T>(a, p0, p1);
}

}  // namespace

void linear_narrow(const LinearTask& task, int64_t panel0, int64_t panel1) {
  const Problem a{.task = task};
  if (a.w.dtype == DType::w8a8) run<Int8>(a, panel0, panel1);
  else run<Int4>(a, panel0, panel1);
}

}  // namespace neox::NEOX_ISA
