// SPDX-License-Identifier: Apache-2.0
// The tensors of a checkpoint, one by one and without a model: what converters read.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "neox/error.h"

namespace neox {

class StoredCheckpoint;

/// A whole tensor, contiguous in C order.
struct StoredTensor {
  const void* data = nullptr;
  std::shared_ptr<const void> owner;  // of a copy; null where data is part of a mapped file, there as long as the reader
  std::string dtype;                  // "float32", "float16" or "bfloat16"
  std::vector<int64_t> shape;
  size_t bytes = 0;
};

/// A checkpoint in any of the forms that EngineConfig::load_format names but "dummy", by HuggingFace's names; or one file of safetensors or
/// of torch.save, by its own names. Files are mapped: what is not read takes no memory. Not safe from several threads at once.
class NEOX_API CheckpointReader {
 public:
  /// path: a folder or a file. model_config: config.json's text where the folder has none and its form needs one, as EngineConfig's.
  /// Throws Error(not_found, invalid, unsupported) naming file and tensor.
  explicit CheckpointReader(const std::string& path, const std::string& load_format = "auto", const std::string& model_config = "");
  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;

  std::vector<std::string> names() const;  // sorted; of the tensors in float32, float16, bfloat16 and, read as float32, float64
  std::vector<int64_t> shape(const std::string& name) const;
  std::string dtype(const std::string& name) const;
  /// A part of the file where it can be, a copy where the file has it in another order or in several parts.
  StoredTensor read(const std::string& name) const;
  bool same(const std::string& a, const std::string& b) const;  // two tensors that are there: the same shape and bits
  void done_with(const std::string& name);                      // its pages may leave memory; they come back when it is read again

 private:
  std::unique_ptr<StoredCheckpoint> stored_;
};

}  // namespace neox
