// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "neox/engine.h"

namespace neox {

/// What ranks in several processes must have alike: version, options, and the model, by its config, the headers of its files and samples of
/// their bytes. Lines "name: value".
std::string what_ranks_share(const EngineConfig& config);

}  // namespace neox
