// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "backend/args.h"
#include "model/quantization.h"

namespace neox {

// The largest sizes that are taken for a model's and not for a broken file.
constexpr int32_t kMaxLayers = 1024, kMaxHidden = 1 << 17, kMaxHeads = 1024, kMaxHeadDim = 256, kMaxIntermediate = 1 << 20;
constexpr int32_t kMaxVocab = 1 << 24, kMaxPositions = 1 << 20;

/// The shape and variants of a GPT-NeoX model: only what some real checkpoint varies. Names follow HuggingFace's config.json.
struct ModelConfig {
  int32_t num_hidden_layers = 0, hidden_size = 0, num_attention_heads = 0, intermediate_size = 0, vocab_size = 0;
  int32_t max_position_embeddings = 0;
  int32_t rotary_dim = 0;  // int(head_dim * partial_rotary_factor)
  double rotary_base = 10000, layer_norm_eps = 1e-5;
  std::string hidden_act = "gelu";
  Act act = Act::gelu;
  bool use_parallel_residual = true, attention_bias = true, tie_word_embeddings = false;
  std::vector<int32_t> eos_token_ids;
  StoredQuantization quantization;
  std::string dtype;  // as config.json states it; a checkpoint's own tensors count for more

  int32_t head_dim() const { return hidden_size / num_attention_heads; }
  int64_t parameters() const;  // of all tensors, a tied embedding once
  int32_t rotary_half() const { return (rotary_dim + 1) / 2; }
};

/// Reads `text`, or where it is empty the folder's config.json, and generation_config.json where there is one, or FasterTransformer's
/// config.ini (ft_config.h). Throws Error naming the file, the field, what was expected and found.
ModelConfig read_model_config(const std::string& folder, const std::string& text = "");

Act act_named(const std::string& hidden_act, const std::string& file);  // throws Error(unsupported) naming the file
/// eos_token_id of the folder's generation_config.json, none where it has no such file or field.
std::vector<int32_t> generation_eos(const std::string& folder, int32_t vocab_size);

}  // namespace neox
