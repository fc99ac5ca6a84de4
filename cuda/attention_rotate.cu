// SPDX-License-Identifier: Apache-2.0
// Rotary embedding of q (in place) and k, and append of k and v to their pages.
// qkv [tokens, heads, 3, head_dim]; pages [pages][heads][block][head_dim]. A CTA takes one token and some heads. Some CTAs turn: a thread
// takes Wide pairs (i, i + half) of a q or k, which no other thread reads or writes. The others bring k's rest and v to their pages, 16
// bytes a thread; q's rest stays where it is. Floor: a token and head moves 4 half of q (in and out), and 2 head_dim of k and v, in once as
// activations and out once in the cache's type; no arithmetic to speak of. Instantiations: 9 (f32, f16, bf16 x 4, 2, 1 pairs).
#include "attention_common.cuh"

namespace neox::cuda::attn {
namespace {

constexpr int kThreads = 256;
constexpr int kTurns = 2, kMoves = 6;  // heads whose elements a thread has on their way at once

/// The CTAs of a token.
struct Parts {
  int all, turning;             // the turning ones come first
  int turned_each, moved_each;  // heads of one
};

/// This thread's among the items that each head has; of heads, its first and how many the CTA takes at once.
struct Place {
  int item, head, step;
  __device__ explicit Place(int items) : item(int(threadIdx.x) % items), head(int(threadIdx.x) / items), step(kThreads / items) {}
  __device__ bool idle() const { return head >= step; }
};

template <class T, int N> __device__ Pack<T, N> load_pack(const T* from, bool aligned) {
  if (aligned) return *reinterpret_cast<const Pack<T, N>*>(from);
  Pack<T, N> x;
#pragma unroll
  for (int i = 0; i < N; i++) x.v[i] = from[i];
  return x;
}
template <class T, int N> __device__ void store_pack(T* to, const Pack<T, N>& x, bool aligned) {
  if (aligned) *reinterpret_cast<Pack<T, N>*>(to) = x;
  else
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = x.v[i];
}
/// To a page, elements [from, N) of x; `same`: pages hold this type.
template <class T, int N> __device__ void append(const Args& p, void* pages, int64_t at, const Pack<T, N>& x, bool same, int from = 0) {
  if (same && from == 0) *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(pages) + at) = x;
  else
#pragma unroll
    for (int i = 0; i < N; i++)
      if (i >= from) store(pages, p.kv, at + i, widen(x.v[i]));
}
/// Where head 0's elements of this slot lie in the pages.
__device__ int64_t page_at(const Args& p, int slot) { return (int64_t(slot / p.block) * p.heads * p.block + slot % p.block) * p.head_dim; }

template <class T, int Wide> __device__ void turn(const Args& p, bool same, int token, int first, int end) {
  const int half = p.half, each = half / Wide, D = p.head_dim;
  const Place at(2 * each);
  if (at.idle()) return;
  const bool is_k = at.item >= each;
  const int i = (is_k ? at.item - each : at.item) * Wide;
  T* const x = static_cast<T*>(p.qkv) + int64_t(token) * p.qkv_ld + (is_k ? D : 0) + i;
  const int slot = p.slot[token], pos = p.pos[token];
  for (int head = first + at.head; head < end; head += kTurns * at.step) {
    Pack<T, Wide> low[kTurns], high[kTurns];
#pragma unroll
    for (int t = 0; t < kTurns; t++)
      if (const int h = head + t * at.step; h < end)
        low[t] = load_pack<T, Wide>(x + h * 3 * D, p.qkv_aligned), high[t] = load_pack<T, Wide>(x + h * 3 * D + half, p.qkv_aligned);
    if (slot < 0) return;
    const float* table = p.cos_sin + int64_t(pos) * 2 * half + i;
    const auto cosine = load_pack<float, Wide>(table, true), sine = load_pack<float, Wide>(table + half, true);
#pragma unroll
    for (int t = 0; t < kTurns; t++) {
      const int h = head + t * at.step;
      if (h >= end) break;
#pragma unroll
      for (int e = 0; e < Wide; e++) {
        const float a = widen(low[t].v[e]), b = widen(high[t].v[e]), c = cosine.v[e], s = sine.v[e];
        low[t].v[e] = narrow<T>(a * c - b * s), high[t].v[e] = narrow<T>(b * c + a * s);
      }
      if (is_k) {
        const int64_t to = page_at(p, slot) + int64_t(h) * p.block * D + i;
        append(p, p.k, to, low[t], same), append(p, p.k, to + half, high[t], same);
      } else {
        store_pack(x + h * 3 * D, low[t], p.qkv_aligned), store_pack(x + h * 3 * D + half, high[t], p.qkv_aligned);
      }
    }
  }
}

template <class T> __device__ void move(const Args& p, bool same, int token, int first, int end) {
  constexpr int N = 16 / sizeof(T);
  const int D = p.head_dim, turned = 2 * p.half, skipped = turned / N;  // whole vectors of k that turn
  const Place at(2 * D / N - skipped);
  if (at.idle()) return;
  const int from = (skipped + at.item) * N;  // of k and v, side by side
  const bool is_k = from < D;
  void* const pages = is_k ? p.k : p.v;
  const int d = is_k ? from : from - D, turn_here = is_k ? max(turned - from, 0) : 0;
  const T* const x = static_cast<const T*>(p.qkv) + int64_t(token) * p.qkv_ld + D + from;
  const int slot = p.slot[token];
  const int64_t to = page_at(p, slot) + d;
  const auto page = [&](int h) { return to + int64_t(h) * p.block * D; };
  first += at.head;
  if (!same || !p.qkv_aligned || turn_here > 0) {
    for (int h = first; slot >= 0 && h < end; h += at.step)
      append(p, pages, page(h), load_pack<T, N>(x + h * 3 * D, p.qkv_aligned), same, turn_here);
    return;
  }
  for (; first < end; first += kMoves * at.step) {
    uint4 moved[kMoves];
#pragma unroll
    for (int t = 0; t < kMoves; t++)
      if (const int h = first + t * at.step; h < end) moved[t] = *reinterpret_cast<const uint4*>(x + h * 3 * D);
    if (slot < 0) return;
#pragma unroll
    for (int t = 0; t < kMoves; t++)
      if (const int h = first + t * at.step; h < end) *reinterpret_cast<uint4*>(static_cast<T*>(pages) + page(h)) = moved[t];
  }
}

/// grid: parts of a token side by side, which share sectors of qkv and pages
template <class T, int Wide>
__global__ void __launch_bounds__(kThreads, 4) rotate_append_kernel(const __grid_constant__ Args p, bool same, Parts parts) {
  grid_wait();
  grid_launch();  // not before: those that follow read what is older than this kernel before they wait
  const int token = int(blockIdx.x) / parts.all, part = int(blockIdx.x) % parts.all;
  const auto end = [&](int first, int each) { return min(first + each, p.heads); };
  if (part < parts.turning) {
    const int first = part * parts.turned_each;
    turn<T, Wide>(p, same, token, first, end(first, parts.turned_each));
  } else {
    const int first = (part - parts.turning) * parts.moved_each;
    move<T>(p, same, token, first, end(first, parts.moved_each));
  }
}

/// Few tokens are spread over more CTAs.
template <class T, int Wide> void run(const Args& a, const Stream& stream) {
  constexpr int N = 16 / sizeof(T);
  const bool few = a.tokens < 128;
  const auto heads_each = [&](int items, int at_once) { return items == 0 ? a.heads : kThreads / items * (few ? 1 : at_once); };
  const auto ctas = [&](int each) { return (a.heads + each - 1) / each; };
  Parts parts{.all = 0,
              .turning = 0,
              .turned_each = heads_each(2 * a.half / Wide, kTurns),
              .moved_each = heads_each(2 * a.head_dim / N - 2 * a.half / N, kMoves)};
  if (a.half > 0) parts.turning = ctas(parts.turned_each);
  parts.all = parts.turning + ctas(parts.moved_each);
  launch({.name = "attention, rotate and append", .grid = unsigned(a.tokens * parts.all), .block = kThreads, .stream = stream},
         rotate_append_kernel<T, Wide>, a, a.act == a.kv, parts);
}

}  // namespace

void rotate_append(const Args& args, const Stream& stream) {
  dispatch(args.act, [&](auto type) {
    using T = Element<type>;
    if (args.half % 4 == 0) run<T, 4>(args, stream);
    else if (args.half % 2 == 0) run<T, 2>(args, stream);
    else run<T, 1>(args, stream);
  });
}

}  // namespace neox::cuda::attn
