// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "model/stored.h"

namespace neox {

/// FasterTransformer's folder, cut for any number of ranks T: a raw little-endian file for every tensor, or for every tensor and rank.
/// Matrices are [inputs, outputs] there, q, k and v [inputs, 3, heads / T, head_dim]; here they have HuggingFace's layout. The parallel
/// residual has one bias a layer, (attention + MLP) / T. It is the MLP's here, and the attention's is 0, except where the folder also has
/// both, and they add up to it. T is what the folder's name says, else how many ranks have a file of layer 0.
/// A file that is missing, or not as long as config.ini makes it, throws Error at once.
class FtCheckpoint final : public StoredCheckpoint {
 public:
  FtCheckpoint(const std::string& folder, const ModelConfig& config);

 private:
  FileTensor file(const std::string& name, std::vector<int64_t> shape, std::vector<int64_t> strides);
  void add_whole(const std::string& name, const std::string& file_name, std::vector<int64_t> shape);
  void add_cut(const std::string& name, std::vector<int64_t> shape, size_t axis, std::vector<int64_t> part, std::vector<int64_t> strides);
  void add_layer(const ModelConfig& config, int32_t index);
  void add_sum(const std::string& layer, int64_t hidden);

  const std::string folder_;
  const DType dtype_;
  const int32_t ranks_;
};

}  // namespace neox
