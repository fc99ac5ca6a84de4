// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backend/buffer.h"
#include "model/config.h"
#include "model/shard.h"

namespace neox {

/// The buffers that one step writes, of one rank. A: the backend's activation type.
struct Activations {
  Tensor x;            // [tokens, hidden] f32: the residual stream
  Tensor n1, n2;       // [tokens, hidden] A: what the two norms read from it
  Tensor qkv;          // [tokens, heads * 3 * head_dim] A, of the heads of this rank, as below
  Tensor att;          // [tokens, heads * head_dim] A
  Tensor mid;          // [tokens, intermediate] A, this rank's share
  Tensor y;            // [tokens, hidden] f32: attention + MLP, partial sums over ranks
  Tensor last;         // [logit_rows, hidden] A: rows whose logits are asked
  Tensor logits_part;  // [logit_rows, vocab_rows] f32: this rank's share of the vocabulary, padded
  Tensor logits;       // [logit_rows, ranks * vocab_rows] f32, on one rank the same memory

  Activations first(int64_t tokens) const {
    Activations a = *this;
    for (Tensor* t : {&a.x, &a.n1, &a.n2, &a.qkv, &a.att, &a.mid, &a.y}) t->rows = tokens;
    return a;
  }
};

/// The head runs over `logit_rows` rows at a time, so that logits never need [tokens, vocab] memory.
Activations make_activations(Arena& arena, const ModelConfig& config, const Shard& shard, DType activation, int32_t max_tokens,
                             int32_t logit_rows);

}  // namespace neox
