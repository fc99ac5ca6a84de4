// SPDX-License-Identifier: Apache-2.0
#include "model/activations.h"

namespace neox {

Activations make_activations(Arena& arena, const ModelConfig& c, const Shard& shard, DType activation, int32_t max_tokens,
                             int32_t logit_rows) {
  // Rows a power of two apart would fall on the same lines of a cache, so each is 16 elements longer than it needs to be.
  auto tensor = [&](int64_t rows, int64_t cols, DType dtype) {
    Tensor t = arena.tensor(rows, (cols + 15) / 16 * 16 + 16, dtype);
    t.cols = cols;
    return t;
  };
  const int64_t T = max_tokens, h = c.hidden_size, vocab = shard.vocab_rows(c);
  Activations a{.x = tensor(T, h, DType::f32),
                .n1 = tensor(T, h, activation),
                .n2 = tensor(T, h, activation),
                .qkv = tensor(T, shard.share(3 * h), activation),
                .att = tensor(T, shard.share(h), activation),
                .mid = tensor(T, shard.share(c.intermediate_size), activation),
                .y = tensor(T, h, DType::f32)};
  if (!shard.stage.last()) return a;
  a.last = tensor(logit_rows, h, activation);
  a.logits_part = tensor(logit_rows, vocab, DType::f32);
  a.logits = shard.ranks == 1 ? a.logits_part : tensor(logit_rows, shard.ranks * vocab, DType::f32);
  return a;
}

}  // namespace neox
