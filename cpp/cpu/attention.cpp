// SPDX-License-Identifier: Apache-2.0
// Rotary embedding with append to the paged cache, and causal attention over it. Compiled once per instruction set.
//
// A lane is a key in the scores (k pages are stored transposed) and a column in the weighted sum, so no sum is ever taken across lanes. A
// score is the sum over head_dim in order; the softmax's denominator and the weighted sum of v are taken over blocks of 256 absolute
// positions, the blocks' sums added in order. One path serves decode and prefill: a tile of 1 to 12 query rows against the pages, so a row
// has the same bits alone, in any tile, and whatever the chunks its prompt came in.
#include <algorithm>
#include <cmath>

#include "cpu/integers.h"
#include "cpu/isa.h"
#include "cpu/math.h"

namespace neox::NEOX_ISA {
namespace {

constexpr bool kWideFile = kAccumulators > 8;
constexpr int kRows = kWideFile ? 12 : 6;
template <int R> constexpr int kSideBySide = R == 1 ? 4 : kWideFile ? 2 : 1;  // blocks of keys, or columns / 16, at once

// --- rotate and append ---

void rotate(float* x, const float* cos_sin, int half) {
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half], c = cos_sin[i], s = cos_sin[half + i];
    x[i] = fma(a, c, -(b * s));
    x[i + half] = fma(b, c, a * s);
  }
}

template <DType T> using Stored = std::conditional_t<T == DType::f32, float, uint16_t>;

/// k goes into column `offset` of a [head_dim][16] block, v into row `offset` of a [16][row] block.
template <DType T> void append(const float* k, const float* v, int head_dim, void* k_block, void* v_block, int64_t row, int offset) {
  Stored<T> lanes[kLanes];
  for (int d = 0; d < head_dim; d += kLanes) {
    const int n = std::min(head_dim - d, kLanes);
    store_as<T>(lanes, 0, load_first(k + d, n));
    for (int i = 0; i < n; i++) static_cast<Stored<T>*>(k_block)[(d + i) * kLanes + offset] = lanes[i];
    store_as<T>(v_block, offset * row + d, load_first(v + d, n));
  }
}

/// [n] -> integers, with zeros to the end of their 16, and what they are multiplied by.
float to_integers(const float* x, int n, int8_t* q) {
  const Quantum step(magnitude(x, n));
  by_lanes(n, [&](int64_t i, auto lanes) { store_i8(q + i, integers(load_n(x + i, lanes), step.inverse)); });
  return step.scale;
}
void append_integers(const float* k, const float* v, const PageLayout& layout, int head_dim, char* k_block, char* v_block, int offset) {
  int8_t q[256];  // the longest head
  const float scale = to_integers(k, head_dim, q);
  for (int d = 0; d < head_dim; d++) k_block[d * kLanes + offset] = char(q[d]);
  std::memcpy(k_block + layout.scale + offset * int64_t(sizeof(float)), &scale, sizeof scale);
  const float v_scale = to_integers(v, head_dim, reinterpret_cast<int8_t*>(v_block + offset * layout.row));
  std::memcpy(v_block + layout.scale + offset * int64_t(sizeof(float)), &v_scale, sizeof v_scale);
}

/// Calls f with an integral_constant of a type of pages.
template <class Fn> INL void dispatch_pages(DType t, Fn&& f) {
  if (t == DType::i8) f(std::integral_constant<DType, DType::i8>{});
  else dispatch(t, f);
}

// --- attend ---

/// A tile of query rows of one head: R rows whose first sees `seen` keys, the next one more, and so on.
struct HeadTile {
  const AttentionArgs& a;
  const PageLayout layout;
  const int32_t* table;  // the sequence's pages
  const int32_t head;
  const float* q;  // [R, head_dim], rows q_ld apart
  int64_t q_ld;
  float* out;  // [R, head_dim], rows out_ld apart
  int64_t out_ld;
  float* scores;  // [R, scores_ld]
  int64_t scores_ld;
  int32_t seen;
  int32_t next_head;  // whose keys are read after these values

  const void* block(const void* cache, int64_t position) const { return block(cache, position, head); }
  const void* block(const void* cache, int64_t position, int32_t of) const {  // of 16 positions from `position` on
    const int64_t page = table[position / a.kv.block], sub = position % a.kv.block / kLanes;
    return static_cast<const char*>(cache) + page * layout.page + of * layout.head + sub * layout.sub;
  }
  // What is read so many positions later, out of `last`: keys, then values, then the next head's keys.
  const void* after_key(int64_t position, int64_t last) const {
    return position < last ? block(a.kv.k, position) : block(a.kv.v, (position - last) / kLanes * kLanes % last);
  }
  const void* after_value(int64_t position, int64_t last) const {
    return position < last ? block(a.kv.v, position) : block(a.kv.k, (position - last) / kLanes * kLanes % last, next_head);
  }
  const float* scales(const void* block) const { return reinterpret_cast<const float*>(static_cast<const char*>(block) + layout.scale); }
};

// How many blocks of 16 positions ahead lines are asked for: what one row does with a line takes less time than the line's way from memory;
// the lines of many rows lie in a cache.
template <int R> constexpr int kAhead = R == 1 ? 8 : kSideBySide<R>;
// Reads one line of what will be wanted then. A function of its own: g++ 12 drops a lambda that holds only a prefetch.
INL void fetch(const void* base, int64_t bytes) { __builtin_prefetch(static_cast<const char*>(base) + bytes, 0, 2); }

template <DType T, int R, int P> INL void score_blocks(const HeadTile& t, int64_t position, int64_t end) {
  const void* k[P];
  const void* next[P];
  F acc[P][R];
  each<P>([&](auto p) {
    k[p] = t.block(t.a.kv.k, position + p * kLanes);
    next[p] = t.after_key(position + (kAhead<R> + p) * kLanes, end);
    each<R>([&](auto r) { acc[p][r] = set1(0.f); });
  });
  for (int64_t d = 0; d < t.a.kv.head_dim; d++) {
    F keys[P];
    for (int p = 0; p < P; p++) fetch(next[p], d * kLanes * int64_t(size_of(T)));
    each<P>([&](auto p) { keys[p] = load_as<T>(k[p], d * kLanes); });
    each<R>([&](auto r) {
      const F q = set1(t.q[r * t.q_ld + d]);
      each<P>([&](auto p) { acc[p][r] = fma(q, keys[p], acc[p][r]); });
    });
  }
  each<P>([&](auto p) {
    F scale = set1(t.a.scale);
    if constexpr (T == DType::i8) scale = mul(scale, load(t.scales(k[p])));
    each<R>([&](auto r) { store(t.scores + r * t.scores_ld + position + p * kLanes, mul(acc[p][r], scale)); });
  });
}

/// scores -> exp(scores - max) over the first n, zeros to the end of their block of 16; returns the sum of the exponentials.
float soften(float* s, int64_t n) {
  const int64_t padded = (n + kLanes - 1) / kLanes * kLanes;
  for (int64_t i = n; i < padded; i++) s[i] = -INFINITY;
  F top = load(s);
  for (int64_t i = kLanes; i < padded; i += kLanes) top = max(top, load(s + i));
  const F most = set1(largest(top));
  float total = 0.f;
  for (int64_t begin = 0; begin < padded; begin += kBlock) {
    F part = set1(0.f);
    for (int64_t i = begin; i < std::min<int64_t>(begin + kBlock, padded); i += kLanes) {
      const F e = exp(sub(load(s + i), most));
      store(s + i, e);
      part = add(part, e);
    }
    total += sum(part);
  }
  return total;
}

/// Columns [16 c, 16 (c + C)) of the weighted sums of v.
template <DType T, int R, int C> INL void weigh(const HeadTile& t, int64_t c, const float* total) {
  const int64_t last = t.seen + R - 1, columns = t.a.kv.head_dim - c * kLanes;
  F sums[R][C];
  each<R>([&](auto r) { each<C>([&](auto j) { sums[r][j] = set1(0.f); }); });
  for (int64_t begin = 0; begin < last; begin += kBlock) {
    const int64_t end = std::min<int64_t>(begin + kBlock, last), common = std::min<int64_t>(end, t.seen);
    F part[R][C];
    each<R>([&](auto r) { each<C>([&](auto j) { part[r][j] = set1(0.f); }); });
    for (int64_t block = begin; block < end; block += kLanes) {
      const void* v = t.block(t.a.kv.v, block);
      const void* next = t.after_value(block + kLanes * kAhead<R>, last);
      const int64_t stop = std::min<int64_t>(block + kLanes, end);
      auto values = [&](int64_t position, F* x) {
        const int64_t at = (position - block) * t.layout.row + c * kLanes;
        each<C>([&](auto j) { x[j] = load_as<T>(v, at + j * kLanes); });
        if constexpr (T == DType::i8) {
          const F scale = set1(t.scales(v)[position - block]);
          each<C>([&](auto j) { x[j] = mul(x[j], scale); });
        }
      };
      int64_t position = block;
      for (; position < std::min(stop, common); position++) {  // keys that every row sees
        F x[C];
        for (int j = 0; j < C; j++) fetch(next, ((position - block) * t.layout.row + (c + j) * kLanes) * int64_t(size_of(T)));
        values(position, x);
        each<R>([&](auto r) {
          const F p = set1(t.scores[r * t.scores_ld + position]);
          each<C>([&](auto j) { part[r][j] = fma(p, x[j], part[r][j]); });
        });
      }
      for (; position < stop; position++) {  // keys that only later rows see: a slot past a row's end may hold anything
        F x[C];
        values(position, x);
        each<R>([&](auto r) {
          if (position < t.seen + r)
            each<C>([&](auto j) { part[r][j] = fma(set1(t.scores[r * t.scores_ld + position]), x[j], part[r][j]); });
        });
      }
    }
    each<R>([&](auto r) {
      if (begin < t.seen + r) each<C>([&](auto j) { sums[r][j] = add(sums[r][j], part[r][j]); });
    });
  }
  each<R>([&](auto r) {
    each<C>([&](auto j) {
      const F y = div(sums[r][j], set1(total[r]));
      float* out = t.out + r * t.out_ld + (c + j) * kLanes;
      if (columns >= (j + 1) * kLanes) store(out, y);
      else store_first(out, y, columns - j * kLanes);
    });
  });
}

template <DType T, int R> [[gnu::flatten]] void attend_head(const HeadTile& t) {
  constexpr int P = kSideBySide<R>;
  const int64_t last = t.seen + R - 1, columns = t.layout.row / kLanes;
  int64_t position = 0;
  for (; position + P * kLanes <= last; position += P * kLanes) score_blocks<T, R, P>(t, position, last);
  for (; position < last; position += kLanes) score_blocks<T, R, 1>(t, position, last);
  float total[R];
  for (int r = 0; r < R; r++) total[r] = soften(t.scores + r * t.scores_ld, t.seen + r);
  int64_t c = 0;
  for (; c + P <= columns; c += P) weigh<T, R, P>(t, c, total);
  for (; c < columns; c++) weigh<T, R, 1>(t, c, total);
}

using AttendFn = void (*)(const HeadTile&);
template <DType T, class = std::make_integer_sequence<int, kRows>> struct ByRows;
template <DType T, int... i> struct ByRows<T, std::integer_sequence<int, i...>> {
  static constexpr AttendFn table[] = {nullptr, attend_head<T, i + 1>...};
};

}  // namespace

void rotate_append(const AttentionArgs& a, const TokenHeads& of) {
  const PageLayout layout(a.kv);
  const int D = a.kv.head_dim;
  for (int64_t t = of.token; t < of.token + of.tokens; t++) {
    const int32_t slot = a.step.slot[t];
    if (slot < 0) continue;
    const float* cos_sin = a.rope.cos_sin + int64_t(a.step.pos[t]) * 2 * a.rope.half;
    const int64_t page = slot / a.kv.block, offset = slot % a.kv.block;
    for (int h = of.head; h < of.head + of.heads; h++) {
      float* q = a.qkv.row(t) + int64_t(h) * 3 * D;
      rotate(q, cos_sin, a.rope.half);
      rotate(q + D, cos_sin, a.rope.half);
      const int64_t at = page * layout.page + h * layout.head + offset / kLanes * layout.sub;
      char *k_block = static_cast<char*>(a.kv.k) + at, *v_block = static_cast<char*>(a.kv.v) + at;
      dispatch_pages(a.kv.dtype, [&](auto type) {
        if constexpr (type == DType::i8) append_integers(q + D, q + 2 * D, layout, D, k_block, v_block, int(offset % kLanes));
        else append<type>(q + D, q + 2 * D, D, k_block, v_block, layout.row, int(offset % kLanes));
      });
    }
  }
}

void attend(const AttentionTask& task, const AttentionItem& item) {
  const AttentionArgs& a = task.args;
  const Step& s = a.step;
  const int32_t first = s.q_start[item.seq], rows = s.q_start[item.seq + 1] - first;
  const int64_t token = first + item.row;
  const int32_t seen = s.kv_len[item.seq] - rows + item.row + 1;
  for (int h = item.head; h < item.head + item.heads; h++) {
    const HeadTile t{.a = a,
                     .layout = PageLayout(a.kv),
                     .table = s.blocks + int64_t(item.seq) * s.blocks_ld,
                     .head = h,
                     .q = a.qkv.row(token) + int64_t(h) * 3 * a.kv.head_dim,
                     .q_ld = a.qkv.ld,
                     .out = a.out.row(token) + int64_t(h) * a.kv.head_dim,
                     .out_ld = a.out.ld,
                     .scores = task.scores,
                     .scores_ld = task.scores_ld,
                     .seen = seen,
                     .next_head = std::min(h + 1, item.head + item.heads - 1)};
    dispatch_pages(a.kv.dtype, [&](auto type) { ByRows<type>::table[item.rows](t); });
  }
}

}  // namespace neox::NEOX_ISA
