// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "model/stored.h"

namespace neox {

/// A HuggingFace folder: pytorch_model.bin, or shards with pytorch_model.bin.index.json; or one file of torch.save, by its own names.
class TorchCheckpoint final : public StoredCheckpoint {
 public:
  explicit TorchCheckpoint(const std::string& path);

 private:
  void open(const std::string& path);
};

}  // namespace neox
