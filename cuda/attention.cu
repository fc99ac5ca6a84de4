// SPDX-License-Identifier: Apache-2.0
// The attention op. Where all rows are single ones of their sequences, decode rotates, appends and attends in one kernel. Else rotate and
// append come first, then decode rows (a sequence's single row), if any, and prefill rows (more than one) by a kernel each. Which sequence
// is which the kernels read from q_start, so that a recorded step may hold any mixture within its bounds.
#include "attention.h"

#include "attention_common.cuh"

namespace neox::cuda {
namespace {

static_assert(kAttentionZeroed == attn::kCounts * sizeof(unsigned));

bool rows_aligned(const Tensor& t) { return (reinterpret_cast<uintptr_t>(t.data) | uintptr_t(t.ld) * size_of(t.dtype)) % 16 == 0; }

attn::Args arguments(const AttentionArgs& a, void* workspace) {
  return {.qkv = a.qkv.data,
          .out = a.out.data,
          .k = a.kv.k,
          .v = a.kv.v,
          .pos = a.step.pos,
          .slot = a.step.slot,
          .q_start = a.step.q_start,
          .kv_len = a.step.kv_len,
          .blocks = a.step.blocks,
          .cos_sin = a.rope.cos_sin,
          .partial = reinterpret_cast<float*>(static_cast<char*>(workspace) + kAttentionZeroed),
          .arrived = static_cast<unsigned*>(workspace),
          .dealt = static_cast<unsigned*>(workspace) + attn::kMaxShares,
          .qkv_ld = a.qkv.ld,
          .out_ld = a.out.ld,
          .tokens = a.step.tokens,
          .seqs = a.step.seqs,
          .blocks_ld = a.step.blocks_ld,
          .half = a.rope.half,
          .heads = a.kv.heads,
          .head_dim = a.kv.head_dim,
          .block = a.kv.block,
          .scale = a.scale,
          .act = a.qkv.dtype,
          .kv = a.kv.dtype,
          .qkv_aligned = rows_aligned(a.qkv),
          .out_aligned = rows_aligned(a.out)};
}

}  // namespace

size_t attention_workspace_bytes(int32_t, int32_t, int32_t, int32_t head_dim) {
  return kAttentionZeroed + size_t(attn::kMaxShares) * 2 * (size_t(head_dim) + 2) * sizeof(float);
}

void attention(const AttentionArgs& a, void* workspace, size_t workspace_bytes, const Stream& stream, DecodeOrder order,
               const Unfused* unfused) {
  const int32_t D = a.kv.head_dim;
  require(D >= 8 && D <= 256 && D % 8 == 0, "attention: head size is ", D, ", expected a multiple of 8 up to 256");
  require(a.kv.block > 0 && a.kv.block % attn::kUnit == 0, "attention: block is ", a.kv.block, ", expected a multiple of ", attn::kUnit);
  require(a.rope.half >= 0 && 2 * a.rope.half <= D, "attention: ", a.rope.half, " rotary pairs in a head of ", D);
  require(a.scale > 0, "attention: scale is ", a.scale);  // maxima are taken before it is applied
  require(a.out.dtype == a.qkv.dtype, "attention: qkv and out differ in type");
  const size_t needed = attention_workspace_bytes(a.step.tokens, a.step.max_kv, a.kv.heads, D);
  require(workspace_bytes >= needed, "attention: a workspace of ", workspace_bytes, " bytes, expected ", needed);
  if (a.step.tokens <= 0 || a.step.seqs <= 0) return;
  attn::Args args = arguments(a, workspace);
  args.appended = a.step.max_q > 1 || order == DecodeOrder::as_prefill;
  if (args.appended) attn::rotate_append(args, stream);
  if (a.step.single_rows) {
    if (order == DecodeOrder::as_prefill) attn::decode_as_prefill(args, stream);
    else attn::decode(args, stream);
  }
  if (a.step.max_q <= 1) return;
  if (unfused) attn::prefill_unfused(a, args, *unfused, stream);
  else attn::prefill(args, a.step.max_q, stream);
}

}  // namespace neox::cuda
