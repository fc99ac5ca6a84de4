// SPDX-License-Identifier: Apache-2.0
// Paged causal attention with rotary embedding and append, for decode and prefill rows in one step.
#pragma once
#include <cstddef>
#include <cstdint>

#include "backend/args.h"
#include "check.h"
#include "gemm.h"

namespace neox::cuda {

/// Elements of one page of k alone (v's has the same number): [heads][block][head_dim].
inline size_t attention_page_elements(const KvPages& kv) { return size_t(kv.heads) * size_t(kv.block) * size_t(kv.head_dim); }

/// The plain way for prefill rows, for comparison: all scores of some heads of a sequence in memory, by cuBLASLt.
struct Unfused {
  Gemm& gemm;
  bool f32_scores;  // else they are rounded to the activations' type
  void* scratch;    // of one sequence's scores, at a time
  size_t bytes;
};
/// Scratch for any step within the bounds: one sequence's one head at least.
size_t unfused_bytes(int32_t max_tokens, int32_t max_kv, int32_t head_dim);

enum class DecodeOrder { fastest, as_prefill };

/// Enough for any step within the bounds. The workspace's first bytes are zero between calls, hence zeroed before the first; the others may
/// hold anything. Calls on one stream may share it.
size_t attention_workspace_bytes(int32_t max_tokens, int32_t max_kv, int32_t heads, int32_t head_dim);
constexpr size_t kAttentionZeroed = 2052;  // bytes

/// Rotates q and k, stores k and v in their pages by slot, attends; q of qkv may be rotated in place. All pointers are the device's; k and
/// v, workspace and page tables are aligned to 256, 256 and 4 bytes. Rows of qkv and out may lie anywhere; rows at multiples of 16 bytes
/// are read faster. head_dim: a multiple of 8, 8 to 256; block: a multiple of 16. Enqueues one to three kernels whose grids depend on
/// step.tokens, seqs, max_q and single_rows alone. A launch that fails throws Error(runtime).
/// They read the step's lists and older pages before the kernel before them has ended: whatever writes these must be complete when it
/// starts.
///
/// order: whether single rows are summed as is fastest for how many there are, or as a prompt's rows are. unfused: null, or how prefill
/// rows are computed: then by sequence, from the step's lists on the host.
void attention(const AttentionArgs& args, void* workspace, size_t workspace_bytes, const Stream& stream,
               DecodeOrder order = DecodeOrder::fastest, const Unfused* unfused = nullptr);

}  // namespace neox::cuda
