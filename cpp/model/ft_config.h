// SPDX-License-Identifier: Apache-2.0
// FasterTransformer's checkpoint folders: <T>-gpu/ with config.ini beside the weights.
#pragma once
#include <string>

#include "base/ini.h"
#include "model/config.h"

namespace neox {

/// T of a folder's name "<T>-gpu", 0 if it is none.
int32_t ft_ranks(const std::string& name);

/// Whether this folder is one of FasterTransformer's: it has a config.ini and no config.json.
bool is_ft_folder(const std::string& folder);

/// The folder that holds a model's files: `path`, or where that has neither config.json nor config.ini a `<N>-gpu` below it, that of N =
/// `ranks` if there is one, else that of the smallest N.
std::string model_folder(const std::string& path, int32_t ranks);

/// The section of a config.ini that describes the model: [gptneox], or the only other one with head_num.
std::string model_section(const Ini& ini);

/// The type of the weights in a folder whose config.ini does not say: fp32. Throws Error(invalid) naming file, line and value.
std::string weight_data_type(const Ini& ini);

/// Reads config.ini. FasterTransformer's keys, and some of our own that it does not know: hidden_act (else gelu_new, FasterTransformer's
/// only one), layernorm_eps, rotary_emb_base, max_position_embeddings (else 2048). end_id ends a text, with generation_config.json's EOS
/// ids where it is one of them; -1 = nothing does. Throws Error naming file, line, key, what was expected and found.
ModelConfig read_ft_config(const std::string& folder);

}  // namespace neox
