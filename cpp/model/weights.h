// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "backend/buffer.h"
#include "model/checkpoint.h"
#include "model/config.h"

namespace neox {

struct Layer {
  Norm ln1, ln2;     // input_layernorm, post_attention_layernorm
  Linear qkv;        // [heads * 3 * head_dim, hidden], rows as HuggingFace has them: each head's q, k, v side by side
  Linear out;        // [hidden, hidden], no bias here
  Linear up;         // [intermediate, hidden]
  Linear down;       // [hidden, intermediate], no bias here
  Tensor out_bias;   // [1, hidden] of the sequential residual, or empty: added after the reduction over ranks
  Tensor down_bias;  // [1, hidden] of the sequential residual
  Tensor sum_bias;   // [1, hidden] of the parallel residual: both added up
};

/// A model's weights in a backend's memory. Packed from views of the checkpoint, tensor by tensor.
class Weights {
 public:
  /// dtype: of the matrices. Linears have biases of the backend's activation type; norms and what add_norm adds are f32. Unknown tensors
  /// are named in `warnings`.
  /// on_layer: told of each layer, where it is not empty.
  Weights(Backend& backend, Checkpoint& checkpoint, const ModelConfig& config, DType dtype, std::vector<std::string>& warnings,
          const std::function<void(int32_t done, int32_t layers)>& on_layer);

  Tensor embedding;  // [vocab, hidden] row-major
  std::vector<Layer> layers;
  Norm final_norm;
  Linear head;  // [vocab, hidden]
  Rope rope;
  size_t bytes() const { return arena_.bytes(); }

 private:
  Tensor vector(const Tensor& source, DType dtype = DType::f32);
  Tensor sum(const std::string& a, const std::string& b);
  Norm norm(const std::string& name);
  Linear linear(const std::string& name, int64_t rows, int64_t cols);
  Tensor matrix(const std::string& name, int64_t rows, int64_t cols);
  Tensor table(const std::string& name);
  Tensor vector(const std::string& name, int64_t n);
  Tensor bias(const std::string& name, int64_t n);
  std::string head_name(std::vector<std::string>& warnings) const;
  Layer layer(int32_t index);
  Rope make_rope();
  void warn_of_the_rest(std::vector<std::string>& warnings) const;

  Backend& backend_;
  Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const DType dtype_;
  Arena arena_;
};

}  // namespace neox
