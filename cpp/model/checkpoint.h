// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/random_fill.h"
#include "base/tensor.h"
#include "model/config.h"

namespace neox {

/// Where a model's tensors come from, by HuggingFace's names.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  virtual bool has(const std::string& name) const = 0;
  /// A matrix [rows, cols], or a vector as [1, cols] where rows is 1, of numbers. The view is valid until the next call of get, or
  /// done_with(name). Throws Error(invalid) if it is missing or of another shape.
  virtual Tensor get(const std::string& name, int64_t rows, int64_t cols) = 0;
  /// The matrix as random values, where that is what get() would give.
  virtual std::optional<RandomFill> random(const std::string&, int64_t, int64_t) const { return std::nullopt; }
  /// A matrix that is_quantized: i8 or i4 with its scales.
  virtual bool is_quantized(const std::string&) const { return false; }
  virtual Tensor get_integers(const std::string&, int64_t, int64_t) const { return {}; }
  virtual DType dtype_of(const std::string& name) const = 0;
  virtual bool same(const std::string& a, const std::string& b) const = 0;  // two tensors that are there: the same to the bit
  virtual std::vector<std::string> names() const = 0;
  virtual void done_with(const std::string& name) = 0;  // it has been packed, and is not needed soon
};

/// The model's configuration: `text`, or where it is empty config.json in the folder, or beside a training checkpoint's layer files.
ModelConfig find_model_config(const std::string& folder, const std::string& text);

/// load_format: as EngineConfig's. `config` is used after the call by "dummy" alone.
std::unique_ptr<Checkpoint> open_checkpoint(const std::string& folder, const std::string& load_format, const ModelConfig& config);

}  // namespace neox
