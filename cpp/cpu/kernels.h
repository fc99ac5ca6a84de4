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
constexpr int64_t panel_rows(int64_t K, DType t) { return t == DType::f32 ? K : (K + 1) / 2 * 2; }
constexpr int64_t panels_of(int64_t N) { return (N + kLanes - 1) / kLanes; }
constexpr size_t panel_bytes(int64_t K, DType t) { return size_t(panel_rows(K, t)) * kLanes * size_of(t); }

struct LinearTask {
  const LinearArgs& args;
  bool accumulate;  // out += instead of out =
  float* wide;      // [kWideBytes / 4] scratch of this thread
};

/// The inner layout of a page, for both k and v: [head][block of 16 positions]; k: [head_dim][16], v: [16][head_dim rounded up to 16].
struct PageLayout {
  int64_t row, sub, head, page;  // elements: of a v row, of a block of 16, of a head, of a page
  explicit PageLayout(const KvPages& kv)
      : row((kv.head_dim + kLanes - 1) / kLanes * kLanes), sub(row * kLanes), head(sub * (kv.block / kLanes)), page(head * kv.heads) {}
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
  void (*add_norm)(const AddNormArgs&, int64_t row0, int64_t row1);
  void (*rotate_append)(const AttentionArgs&, int64_t token0, int64_t token1);
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
