// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/activations.h"
#include "model/config.h"
#include "model/shard.h"
#include "model/weights.h"

namespace neox {

/// GPT-NeoX, once, over any backend.
class Model {
 public:
  struct Parts {
    Backend& backend;
    Communicator &tensor_parallel, &pipeline;
    const ModelConfig& config;
    const Weights& weights;
    const std::vector<KvPages>& kv;  // [layers of this stage]
    const Activations& activations;
    Tensor virtual_tokens;  // [rows, hidden] f32: what ids from the vocabulary's size on embed, on the first stage
    Shard shard;
  };
  explicit Model(const Parts& parts);

  /// Runs this stage's layers over the step's tokens, of which `sampled` tells those that earlier steps drew. On the last stage the rows
  /// are then ready for logits(). The probe, if any, sees x after the embedding (-1) and after each layer.
  using Probe = std::function<void(int32_t layer, const Tensor& x)>;
  void forward(const Step& step, const Sample* sampled, const Probe& probe = {});
  /// Logits of the step's out rows [first, first + count), count <= logit_rows(). The view is valid until the next call.
  Tensor logits(const Step& step, int32_t first, int32_t count);
  int32_t logit_rows() const { return int32_t(activations_.logits.rows); }

 private:
  void layer(int32_t l, const Step& step, const Activations& a);
  AddNormArgs entrance(int32_t l, const Activations& a) const;

  Backend& be;
  Communicator &tp, &pp;
  const ModelConfig& cfg;
  const Weights& weights_;
  const std::vector<KvPages>& kv_;
  const Activations& activations_;
  const Tensor virtual_tokens_;
  const Shard shard_;
  const Stage& stage_;
  const float scale_;  // of scores: head_dim^-0.5
};

}  // namespace neox
