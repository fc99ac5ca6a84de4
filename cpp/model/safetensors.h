// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "model/stored.h"

namespace neox {

/// A HuggingFace folder: model.safetensors, or shards with model.safetensors.index.json; or one file of that format.
/// Format: https://huggingface.co/docs/safetensors (u64 header length, JSON header, raw little-endian data).
class SafetensorsCheckpoint final : public StoredCheckpoint {
 public:
  explicit SafetensorsCheckpoint(const std::string& path);

 private:
  void open(const std::string& path);
};

}  // namespace neox
