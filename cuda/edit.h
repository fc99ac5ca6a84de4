// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backend/args.h"
#include "check.h"

namespace neox::cuda {

/// Writes each row of `logits`, of which the first is out row `first`, that is among the edited ones to its own row of out [rows, vocab].
void edit(const Tensor& logits, const Edits& edits, int32_t first, float* out, const Stream& stream);

}  // namespace neox::cuda
