// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

namespace neox {

/// Whether a HuggingFace folder has weights in `file` ("model.safetensors") or in shards with an index of it.
bool has_weights(const std::string& folder, const std::string& file);

/// The names of the folder's files with weights: those that `<file>.index.json` lists, or else the file itself. Throws Error(not_found) if
/// there is neither, Error(invalid) if the index is none or names files outside the folder.
std::vector<std::string> weight_files(const std::string& folder, const std::string& file);

}  // namespace neox
