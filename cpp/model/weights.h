// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "backend/buffer.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/quantization.h"
#include "model/shard.h"

namespace neox {

struct Layer {
  Norm ln1, ln2;     // input_layernorm, post_attention_layernorm
  Linear qkv;        // [heads * 3 * head_dim, hidden], rows as HuggingFace has them: each head's q, k, v side by side. This rank's heads
  Linear out;        // [hidden, heads * head_dim], no bias here
  Linear up;         // [intermediate, hidden], this rank's share
  Linear down;       // [hidden, intermediate], no bias here
  Tensor out_bias;   // [1, hidden] of the sequential residual, or empty: added after the reduction over ranks
  Tensor down_bias;  // [1, hidden] of the sequential residual
  Tensor sum_bias;   // [1, hidden] of the parallel residual: both added up
};

/// One rank's share of a model's weights, in a backend's memory. Packed from views of the checkpoint, tensor by tensor: of qkv, up and the
/// head a share of the rows, of out and down a share of the columns, so that the ranks' products add up. The embedding is whole on each
/// rank of the first stage: a lookup then needs no communication, and one table in `layers` matrices is little memory.
class Weights {
 public:
  /// dtype: of the embedding; of the other matrices, `quantization`'s. Linears have biases of the backend's activation type; norms and what
  /// add_norm adds are f32. Unknown tensors are named in `warnings`.
  /// on_layer: told of each layer, where it is not empty.
  Weights(Backend& backend, Checkpoint& checkpoint, const ModelConfig& config, const Shard& shard, DType dtype,
          const Quantization& quantization, std::vector<std::string>& warnings,
          const std::function<void(int32_t done, int32_t layers)>& on_layer);

  Tensor embedding;  // [vocab, hidden] row-major, on the first stage
  std::vector<Layer> layers;
  Norm final_norm;
  Linear head;  // [vocab_rows, hidden], on the last stage
  Rope rope;
  size_t bytes() const { return arena_.bytes(); }

 private:
  enum class Cut { rows, cols };  // which of a matrix the ranks of a stage share
  Tensor vector(const Tensor& source, DType dtype = DType::f32);
  Tensor sum(const std::string& a, const std::string& b);
  Norm norm(const std::string& name);
  Tensor random(const std::string& name, int64_t rows, int64_t cols, Cut cut, Format format);
  Tensor matrix(const std::string& name, int64_t rows, int64_t cols, Cut cut, Format format);
  Tensor source_of(const std::string& name, int64_t rows, int64_t cols);
  Tensor head_rows(const std::string& name);
  Tensor packed(const std::string& name, const Tensor& part, Format format);
  void check_groups(const std::string& name, int64_t inputs, Format format) const;
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
  const Shard shard_;
  const DType dtype_;
  const Quantization quantization_;
  Arena arena_;
};

}  // namespace neox
