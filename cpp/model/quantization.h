// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

#include "base/tensor.h"

namespace neox {

/// What config.json's quantization_config says of a checkpoint's matrices.
struct StoredQuantization {
  std::string mode;   // "int8", "w8a8", "int4", "w4a8"; empty = they are numbers
  int32_t group = 0;  // of int4 and w4a8
};

/// How a model's matrices are kept. The embedding, of which a step reads a few rows, keeps the model's type.
struct Quantization {
  std::string mode = "none";
  int32_t group = 0;
  Format layers = DType::f32, head = DType::f32;  // what the checkpoint's numbers become
  bool narrow_inputs = false;                     // what the checkpoint's integers are multiplied by
};

/// mode: "auto" (the checkpoint's), "none" or one of the four; group: 0 = the checkpoint's, else 64; dtype: of what is not quantised.
/// Throws Error(invalid).
Quantization choose_quantization(const std::string& mode, int32_t group, const StoredQuantization& stored, DType dtype);

/// Of one of the four modes; throws Error(invalid).
Format layer_format(const std::string& mode, int32_t group);
/// The head has 8 bits in every mode: 4 there would add more to the error of the logits than they do in all layers.
Format head_format(const std::string& mode);

}  // namespace neox
