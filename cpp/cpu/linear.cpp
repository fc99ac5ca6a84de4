// SPDX-License-Identifier: Apache-2.0
// y = act(x W^T + bias) over packed weights. Compiled once per instruction set.
// An output is the sum over blocks of 256 k, in order, of (the sum over k in order, by fused multiply-add): no other order occurs, so a row
// has the same bits alone and in any batch, on any number of threads, and on every instruction set.
#include "cpu/isa.h"

#include <algorithm>

#include "cpu/math.h"
#include "cpu/panels.h"
#include "cpu/weight_only.h"

namespace neox::NEOX_ISA {
namespace {

// Weight formats. A step is one 64-byte line or, for 16-bit types, two k; get<j> gives the j-th k as f32, exactly.
struct W32 {
  static constexpr DType kType = DType::f32;
  static constexpr int kStep = 1;
  template <int j> INL F get(const char* p) { return load(reinterpret_cast<const float*>(p)); }
};
struct WB16 {
  static constexpr DType kType = DType::bf16;
  static constexpr int kStep = 2;
  template <int j> INL F get(const char* p) {
    return as_float(j == 0 ? shl<16>(load_bits(p)) : band(load_bits(p), set1(int32_t(0xffff0000))));
  }
};
struct WF16 {
  static constexpr DType kType = DType::f16;
  static constexpr int kStep = 2;
  template <int j> INL F get(const char* p) { return load_f16(p + j * 32); }
};
template <class W> constexpr ptrdiff_t kRowBytes = kLanes* size_of(W::kType);

struct Tile {  // up to 16 rows of x against P panels, over k0 <= k < k1
  const float* x;
  int64_t ldx;
  const char* w;     // of k = 0
  int64_t w_stride;  // bytes from a panel to the next of the P
  int64_t k0, k1;
  float* y;
  int64_t ldy, y_stride;  // columns from a panel's outputs to the next panel's
  const float* bias;      // null, or with the last block of k
  bool add;               // to what y holds
  int last;               // outputs of the last of the P panels, 1 .. 16
};

// A panel is read line by line. Where memory is the limit, a line comes to the first cache alone, a little ahead: what passes through the
// second one pushes others out of it, which costs bandwidth. Several rows take longer for a line and give the prefetchers of the hardware
// too little to follow: it comes from far ahead, in two steps. `work`: rows times the k of a line.
template <int work> INL void fetch(const char* line) {
  if constexpr (work <= 4) {
    __builtin_prefetch(line + 256, 0, 0);
  } else {
    __builtin_prefetch(line + 8192, 0, 2);
    __builtin_prefetch(line + 2048, 0, 3);
  }
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

template <class W, int MR, int P, int j> INL void multiply(const Tile& t, const char* b, int64_t k, F (&acc)[MR][P]) {
  F w[P];
  UNROLLED(int p = 0; p < P; p++) w[p] = W::template get<j>(b + p * t.w_stride);
  UNROLLED(int m = 0; m < MR; m++) {
    const F a = set1(t.x[m * t.ldx + k + j]);
    UNROLLED(int p = 0; p < P; p++) acc[m][p] = fma(a, w[p], acc[m][p]);
  }
}
template <class W, int MR, int P> void tile(const Tile& t) {
  F acc[MR][P];
  UNROLLED(int m = 0; m < MR; m++) UNROLLED(int p = 0; p < P; p++) acc[m][p] = set1(0.f);
  const char* b = t.w + t.k0 * kRowBytes<W>;
  int64_t k = t.k0;
  for (; k + W::kStep <= t.k1; k += W::kStep, b += W::kStep * kRowBytes<W>) {
    UNROLLED(int p = 0; p < P; p++) fetch<MR * W::kStep>(b + p * t.w_stride);
    multiply<W, MR, P, 0>(t, b, k, acc);
    if constexpr (W::kStep == 2) multiply<W, MR, P, 1>(t, b, k, acc);
  }
  if (k < t.k1) multiply<W, MR, P, 0>(t, b, k, acc);
  UNROLLED(int m = 0; m < MR; m++) UNROLLED(int p = 0; p < P; p++) put(t, m, p, P, acc[m][p]);
}

// The tiles of a format, by rows: with several panels side by side, which are as many streams of memory, and with one.
using TileFn = void (*)(const Tile&);
constexpr bool kWideFile = kAccumulators > 8;
constexpr int kFew = kWideFile ? 16 : 6;   // rows of a tile where memory is the limit
constexpr int kMany = kWideFile ? 12 : 6;  // and where arithmetic is
template <class W> constexpr int panels_for(int rows) {
  if (!kWideFile) return rows == 1 ? 4 : rows == 2 ? 2 : 1;
  if (rows == 1 && W::kStep == 2) return 4;  // the two k of a line wait for each other
  return rows <= kMany ? 2 : 1;
}
constexpr int kPair = panels_for<W32>(kMany);
template <class W, class = std::make_integer_sequence<int, kFew>> struct Tiles;
template <class W, int... i> struct Tiles<W, std::integer_sequence<int, i...>> {
  static constexpr TileFn side_by_side[] = {nullptr, tile<W, i + 1, panels_for<W>(i + 1)>...};
  static constexpr TileFn one[] = {nullptr, tile<W, i + 1, 1>...};
};

// The g-th of `groups` nearly equal groups of M rows.
INL void run_group(const TileFn* tiles, Tile t, int64_t M, int64_t groups, int64_t g) {
  const int64_t m = M * g / groups, rows = M * (g + 1) / groups - m;
  t.x += m * t.ldx, t.y += m * t.ldy;
  tiles[rows](t);
}

struct Problem {  // y [M, N] (+)= x [M, K] W^T
  const LinearTask& task;
  const Tensor &x = task.args.x, &y = task.args.out, &w = task.args.w.weight;
  const int64_t M = x.rows, N = w.rows, K = w.cols;
  const float* bias = task.args.w.bias ? task.args.w.bias.row(0) : nullptr;
  const size_t bytes = panel_bytes(K, w.format());

  const char* panel(int64_t p) const { return static_cast<const char*>(w.data) + p * bytes; }
  int outputs(int64_t p) const { return int(std::min<int64_t>(N - p * kLanes, kLanes)); }
  /// Panels p, p + stride, ... up to and including `end`, over k0 <= k < k1.
  Tile tile(int64_t p, int64_t stride, int64_t end, int64_t k0, int64_t k1) const {
    return {.x = x.row(0),
            .ldx = x.ld,
            .w = panel(p),
            .w_stride = int64_t(stride * bytes),
            .k0 = k0,
            .k1 = k1,
            .y = y.row(0) + p * kLanes,
            .ldy = y.ld,
            .y_stride = stride * kLanes,
            .bias = k1 == K && bias ? bias + p * kLanes : nullptr,
            .add = task.accumulate || k0 > 0,
            .last = outputs(end)};
  }
};

template <class W> void few_rows(const Problem& a, int64_t p0, int64_t p1) {
  const int64_t groups = (a.M + kFew - 1) / kFew, P = groups == 1 ? panels_for<W>(int(a.M)) : 1;
  by_streams(a, p0, p1, P, [&](int64_t p, int64_t stride, int64_t n) {
    const TileFn* tiles = groups == 1 && n == P ? Tiles<W>::side_by_side : Tiles<W>::one;
    for (int64_t k = 0; k < a.K; k += kBlock)
      for (int64_t g = 0; g < groups; g++)
        run_group(tiles, a.tile(p, stride, p + (n - 1) * stride, k, std::min<int64_t>(k + kBlock, a.K)), a.M, groups, g);
  });
}

template <class W> INL void widen_panel(W, const char* w, int64_t, int32_t, int64_t k0, int64_t k1, float* out) {  // -> [k1 - k0][16]
  const char* b = w + k0 * kRowBytes<W>;
  for (int64_t k = k0; k < k1; k += W::kStep, b += W::kStep * kRowBytes<W>)
    each<W::kStep>([&](auto j) {
      if (k + j < k1) store(out + (k - k0 + j) * kLanes, W::template get<j>(b));
    });
}

// Many rows, bound by arithmetic: a group of rows stays in the first-level cache, a chunk of panels in the second. Narrower weights are
// widened once per chunk; integers always are, few rows or many.
template <class W> void many_rows(const Problem& a, int64_t p0, int64_t p1) {
  constexpr bool kWiden = !std::is_same_v<W, W32>;
  constexpr int64_t kMost = kWideBytes / (kBlock * kLanes * sizeof(float));
  const int64_t groups = (a.M + kMany - 1) / kMany, P = groups == 1 ? panels_for<W32>(int(a.M)) : kPair;
  const int64_t chunk = groups == 1 ? P : kMost;  // for one group of rows, what the first-level cache holds
  for (int64_t c = p0, end; c < p1; c = end) {
    end = std::min(c + chunk, p1);
    for (int64_t k = 0; k < a.K; k += kBlock) {
      const int64_t k1 = std::min<int64_t>(k + kBlock, a.K), wide = (k1 - k) * kLanes;
      if constexpr (kWiden)
        for (int64_t p = c; p < end; p++) widen_panel(W{}, a.panel(p), a.K, a.w.group, k, k1, a.task.wide + (p - c) * wide);
      for (int64_t g = 0; g < groups; g++)
        for (int64_t p = c, n; p < end; p += n) {
          n = p + P <= end ? P : 1;
          Tile t = a.tile(p, 1, p + n - 1, k, k1);
          if constexpr (kWiden) {  // as if k began at 0 in the scratch
            t.x += k, t.k0 = 0, t.k1 = k1 - k;
            t.w = reinterpret_cast<const char*>(a.task.wide + (p - c) * wide), t.w_stride = wide * int64_t(sizeof(float));
          }
          run_group(n == P ? Tiles<W32>::side_by_side : Tiles<W32>::one, t, a.M, groups, g);
        }
    }
    for (int64_t p = c; p < end; p++) finish(a, p);
  }
}

template <class W> void run(const Problem& a, int64_t p0, int64_t p1) { a.M <= 16 ? few_rows<W>(a, p0, p1) : many_rows<W>(a, p0, p1); }

}  // namespace

void linear(const LinearTask& task, int64_t panel0, int64_t panel1) {
  const Problem a{.task = task};
  switch (a.w.dtype) {
    case DType::f32: return run<W32>(a, panel0, panel1);
    case DType::f16: return run<WF16>(a, panel0, panel1);
    case DType::bf16: return run<WB16>(a, panel0, panel1);
    case DType::i8: return many_rows<W8>(a, panel0, panel1);
    case DType::i4: return many_rows<W4>(a, panel0, panel1);
    case DType::w8a8:
    case DType::w4a8: return;  // linear_narrow's
  }
}

}  // namespace neox::NEOX_ISA
