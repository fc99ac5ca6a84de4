// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>

#include "model/config.h"
#include "model/stored.h"
#include "model/torch_file.h"
#include "neox/checkpoint.h"

namespace neox {

/// A training checkpoint of EleutherAI's GPT-NeoX, written by any number of tensor-parallel ranks, by HuggingFace's names. Matrices and
/// biases that the ranks shared are joined, norms averaged. A bias that is added after the ranks' sum is as each rank has it in the
/// sequential residual; in the parallel one each rank adds its own before the sum, so that the model's bias is the sum.
class EleutherAiCheckpoint final : public StoredCheckpoint {
 public:
  EleutherAiCheckpoint(const std::string& path, const ModelConfig& config);

 private:
  struct LayerFile {
    std::string path;
    std::map<std::string, TorchTensor> tensors;  // by the file's names
  };
  LayerFile read(const std::string& path);
  void open(const std::string& step, const ModelConfig& config);
  void merge(const std::vector<LayerFile>& ranks, const std::string& from, const std::string& to, const ModelConfig& config);
};

}  // namespace neox
