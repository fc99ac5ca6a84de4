// SPDX-License-Identifier: Apache-2.0
#include "model/activations.h"

namespace neox {

Activations make_activations(Arena& arena, const ModelConfig& c, DType activation, int32_t max_tokens, int32_t logit_rows) {
  // Rows a power of two apart would fall on the same lines of a cache, so each is 16 elements longer than it needs to be.
  auto tensor = [&](int64_t rows, int64_t cols, DType dtype) {
    Tensor t = arena.tensor(rows, (cols + 15) / 16 * 16 + 16, dtype);
    t.cols = cols;
    return t;
  };
  const int64_t T = max_tokens, h = c.hidden_size;
  return {.x = tensor(T, h, DType::f32),
          .n1 = tensor(T, h, activation),
          .n2 = tensor(T, h, activation),
          .qkv = tensor(T, 3 * h, activation),
          .att = tensor(T, h, activation),
          .mid = tensor(T, c.intermediate_size, activation),
          .y = tensor(T, h, DType::f32),
          .last = tensor(logit_rows, h, activation),
          .logits = tensor(logit_rows, c.vocab_size, DType::f32)};
}

}  // namespace neox
