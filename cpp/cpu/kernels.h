// SPDX-License-Identifier: Apache-2.0
// The kernels that each instruction set fills in, and what they share: packed layouts and the units of summation.
#pragma once
#include <span>

#include "backend/args.h"

namespace neox {

constexpr int kLanes = 16;   // outputs in a panel of weights, keys in a block of scores
constexpr int kBlock = 256;  // linear sums K, and attention sums positions, in blocks of 256; the blocks' sums are added in order
constexpr size_t kWideBytes = 256 << 10;  // scratch of a thread for widened weights, about half of a second-level cache

/// Packed weights: [ceil(N / 16)] panels, each [K rounded up to the step][16]; rows past N and the odd k are zeros.
/// f32: step 1. f16: step 2, two lines of 16. bf16: step 2, the pair of k side by side in each lane, as dot-product instructions want it.
/// Integers begin with their scales: i8 and w8a8 with [16] f32, i4 and w4a8 with [K / group][16] f16, both in whole lines of 64 bytes.
/// i8: step 4, four lines of 16. w8a8: step 4, the four k side by side in a lane, stored + 128. i4 and w4a8: step 8, stored + 8; byte b of
/// a lane holds k = b in its low half and k = b + 4 in its high half.
constexpr int64_t step_of(DType t) { return t == DType::f32 ? 1 : is_float(t) ? 2 : is_grouped(t) ? 8 : 4; }
constexpr int64_t panel_rows(int64_t K, DType t) { return (K + step_of(t) - 1) / step_of(t) * step_of(t); }
constexpr int64_t panels_of(int64_t N) { return (N + kLanes - 1) / kLanes; }
constexpr size_t scale_bytes(int64_t K, Format f) {
  return is_float(f.dtype) ? 0 : is_grouped(f.dtype) ? size_t(K / f.group + 1) / 2 * 64 : 64;
}
constexpr size_t panel_bytes(int64_t K, Format f) {
  return scale_bytes(K, f) + size_t(panel_rows(K, f.dtype) * kLanes * bits_of(f.dtype) / 8);
}

/// Rows of inputs as 8-bit integers, x = q * scale, each row with a scale of its own. A row that holds a NaN or an infinity has scale NaN.
struct NarrowRows {
  int8_t* q;        // [rows, ld], zeros from K to the next multiple of 64
  float* scale;     // [rows]
  int32_t* offset;  // [rows, groups] what cancels the weights' + 8 or + 128: as many times the sum of q over each group of k, negative
  int64_t ld, groups;

  /// In `memory` of narrow_bytes(rows, K).
  NarrowRows(char* memory, int64_t rows, int64_t K, Format weight);
};
constexpr int64_t kLeastGroup = 32;
/// Rows a power of two apart would fall on the same lines of a cache.
constexpr int64_t narrow_ld(int64_t K) { return (K + 63) / 64 * 64 + 64; }
constexpr size_t narrow_bytes(int64_t rows, int64_t K) {
  return size_t(rows) * size_t(narrow_ld(K) + int64_t(sizeof(float)) + (K / kLeastGroup + 1) * int64_t(sizeof(int32_t)));
}
inline NarrowRows::NarrowRows(char* memory, int64_t rows, int64_t K, Format weight)
    : q(reinterpret_cast<int8_t*>(memory)), scale(reinterpret_cast<float*>(q + rows * narrow_ld(K))),
      offset(reinterpret_cast<int32_t*>(scale + rows)), ld(narrow_ld(K)), groups(weight.group ? K / weight.group : 1) {}

struct LinearTask {
  const LinearArgs& args;
  bool accumulate;                     // out += instead of out =
  float* wide;                         // [kWideBytes / 4] scratch of this thread
  const NarrowRows* narrow = nullptr;  // args.x, where the weight's type wants it so
};

/// The inner layout of a page, for both k and v: [head][block of 16 positions]; k: [head_dim][16], v: [16][head_dim rounded up to 16].
/// After a block of i8 lie the scales of its 16 positions, f32.
struct PageLayout {
  int64_t row;                     // elements of a v row
  int64_t scale, sub, head, page;  // bytes: from a block of 16 to its scales, of a block, of a head, of a page
  explicit PageLayout(const KvPages& kv)
      : row((kv.head_dim + kLanes - 1) / kLanes * kLanes), scale(row * kLanes * int64_t(size_of(kv.dtype))),
        sub(scale + (kv.dtype == DType::i8 ? kLanes * int64_t(sizeof(float)) : 0)), head(sub * (kv.block / kLanes)), page(head * kv.heads) {
  }
};
struct TokenHeads {  // some heads of some tokens of a step
  int64_t token, tokens;
  int32_t head, heads;
};
struct AttentionItem {
  int32_t seq, row, rows, head, heads;  // rows of one sequence's chunk, relative to its first, and a range of heads
  int64_t cost;                         // keys to visit, up to and including this item: prefix sums
};
struct AttentionTask {
  const AttentionArgs& args;
  float* scores;      // [attention_rows, scores_ld] scratch of this thread
  int64_t scores_ld;  // max_kv rounded up to 16
};

struct Kernels {
  const char* name;
  int32_t attention_rows;  // query rows of one item at most
  void (*linear)(const LinearTask&, int64_t panel0, int64_t panel1);
  void (*linear_narrow)(const LinearTask&, int64_t panel0, int64_t panel1);  // of w8a8 and w4a8
  void (*narrow_rows)(const Tensor& x, Format weight, const NarrowRows& out, int64_t row0, int64_t row1);
  /// A row of n weights as integers [n] and scales: one, or one of f16's values for each group.
  void (*quantize_row)(const float* row, int64_t n, Format to, int8_t* q, float* scale);
  void (*add_norm)(const AddNormArgs&, int64_t row0, int64_t row1);
  void (*rotate_append)(const AttentionArgs&, const TokenHeads&);
  void (*attend)(const AttentionTask&, const AttentionItem&);
  void (*widen)(DType from, const void* x, float* y, int64_t n);
  bool (*largest)(const float* x, int64_t n, float* most);  // false if a value is NaN or infinite
  double (*exp_all)(const float* x, int64_t n, float most, float scale,
                    float* y);  // y = exp((x - most) * scale), returns the sum; y may be null
};

struct IsaEntry {
  const Kernels* kernels;
  bool supported;  // by the machine that runs this
};
/// From the least to the most capable. One file for each family of processors.
std::span<const IsaEntry> isa_table();

}  // namespace neox
