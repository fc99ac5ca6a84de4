// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backend/buffer.h"
#include "model/config.h"

namespace neox {

/// The buffers that one step writes, of one rank. A: the backend's activation type.
struct Activations {
  Tensor x;       // [tokens, hidden] f32: the residual stream
  Tensor n1, n2;  // [tokens, hidden] A: what the two norms read from it
  Tensor qkv;     // [tokens, heads * 3 * head_dim] A
  Tensor att;     // [tokens, heads * head_dim] A
  Tensor mid;     // [tokens, intermediate] A
  Tensor y;       // [tokens, hidden] f32: attention + MLP, partial sums over ranks
  Tensor last;    // [logit_rows, hidden] A: rows whose logits are asked
  Tensor logits;  // [logit_rows, vocab] f32

  Activations first(int64_t tokens) const {
    return {
        x.first(tokens), n1.first(tokens), n2.first(tokens), qkv.first(tokens), att.first(tokens), mid.first(tokens), y.first(tokens), last,
        logits};
  }
};

/// The head runs over `logit_rows` rows at a time, so that logits never need [tokens, vocab] memory.
Activations make_activations(Arena& arena, const ModelConfig& config, DType activation, int32_t max_tokens, int32_t logit_rows);

}  // namespace neox
