// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"

namespace neox {

/// The tensors of a HuggingFace folder (model.safetensors, or shards with model.safetensors.index.json): views of the mapped files.
/// Format: https://huggingface.co/docs/safetensors (u64 header length, JSON header, raw little-endian data).
class Checkpoint {
 public:
  explicit Checkpoint(const std::string& folder);

  bool has(const std::string& name) const { return tensors_.contains(name); }
  /// A matrix [rows, cols], or a vector as [1, cols] where rows is 1. Throws Error(invalid) if it is missing or of another shape.
  Tensor get(const std::string& name, int64_t rows, int64_t cols) const;
  DType dtype_of(const std::string& name) const;
  std::vector<std::string> names() const;
  int64_t elements() const;
  /// The tensor's pages may leave memory: it has been packed.
  void done_with(const std::string& name) const;

 private:
  struct Entry {
    size_t file;
    DType dtype;
    std::vector<int64_t> shape;
    const char* data;
    size_t bytes;
  };
  void open(const std::string& path);
  void read_index(const std::string& folder);
  const Entry& entry(const std::string& name) const;

  std::string folder_;
  std::vector<MappedFile> files_;
  std::map<std::string, Entry> tensors_;
};

}  // namespace neox
