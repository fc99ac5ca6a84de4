// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <vector>

#include "comm/group.h"

namespace neox {

/// Ranks that are threads of this process: one group for each of `size` threads. timeout: seconds.
NEOX_API std::vector<std::unique_ptr<HostGroup>> make_thread_groups(int size, double timeout);

}  // namespace neox
