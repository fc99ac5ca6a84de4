// SPDX-License-Identifier: Apache-2.0
// FasterTransformer's checkpoint folders: <T>-gpu/ with config.ini beside the weights.
#pragma once
#include <string>

#include "model/config.h"

namespace neox {

/// T of a folder's name "<T>-gpu", 0 if it is none.
int32_t ft_ranks(const std::string& name);

/// Whether this folder is one of FasterTransformer's: it has a config.ini and no config.json.
bool is_ft_folder(const std::string& folder);

/// The folder that holds a model's files: `path`, or where that has neither config.json nor config.ini a `<N>-gpu` below it, that of N =
/// `ranks` if there is one, else that of the smallest N.
std::string model_folder(const std::string& path, int32_t ranks);

/// Reads config.ini: section [gptneox], or the only one with head_num. FasterTransformer's keys, and some of our own that it does not know:
/// hidden_act (else gelu_new, FasterTransformer's only one), layernorm_eps, rotary_emb_base, max_position_embeddings (else 2048). EOS ids
/// are generation_config.json's where there is one, else end_id. Throws Error naming file, line, key, what was expected and found.
ModelConfig read_ft_config(const std::string& folder);

}  // namespace neox
