// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>

#include "base/file.h"
#include "model/checkpoint.h"

namespace neox {

/// A HuggingFace folder: model.safetensors, or shards with model.safetensors.index.json. Tensors are views of the mapped files.
/// Format: https://huggingface.co/docs/safetensors (u64 header length, JSON header, raw little-endian data).
class SafetensorsCheckpoint final : public Checkpoint {
 public:
  explicit SafetensorsCheckpoint(const std::string& folder);

  bool has(const std::string& name) const override { return tensors_.contains(name); }
  Tensor get(const std::string& name, int64_t rows, int64_t cols) override;
  DType dtype_of(const std::string& name) const override;
  bool same(const std::string& a, const std::string& b) const override;
  std::vector<std::string> names() const override;
  void done_with(const std::string& name) override;  // lets its pages leave memory

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
  std::map<std::string, std::string> other_types_;  // of tensors that no weight can be
};

}  // namespace neox
