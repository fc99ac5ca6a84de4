// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "model/checkpoint.h"

namespace neox {

/// Random weights of a model's shape, for measuring without a checkpoint: the same on every run and machine. A tensor's values depend on
/// nothing but its name and size. Scaled as a trained model's would be, so that activations stay finite through any number of layers.
class DummyCheckpoint final : public Checkpoint {
 public:
  explicit DummyCheckpoint(const ModelConfig& config) : config_(config) {}

  bool has(const std::string& name) const override { return name != "lm_head.weight"; }
  Tensor get(const std::string& name, int64_t rows, int64_t cols) override;
  std::optional<RandomFill> random(const std::string& name, int64_t rows, int64_t cols) const override;
  DType dtype_of(const std::string&) const override { return dtype_named(config_.dtype); }
  bool same(const std::string&, const std::string&) const override { return true; }
  std::vector<std::string> names() const override { return {}; }
  void done_with(const std::string&) override {}

 private:
  const ModelConfig& config_;
  std::vector<float> values_;  // of the tensor asked for last
};

}  // namespace neox
