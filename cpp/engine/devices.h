// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "comm/group.h"
#include "neox/engine.h"

namespace neox {

/// The GPU that this rank takes, by its number among those that CUDA sees. All ranks of `group` come here at once; where the device is
/// "auto" and there are several, they find out together whether they run on GPUs, and `config` says so then. Throws Error(invalid).
int32_t choose_gpu(EngineConfig& config, HostGroup& group);

}  // namespace neox
