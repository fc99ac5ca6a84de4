// SPDX-License-Identifier: Apache-2.0
// What the machine itself can do, for benchmarks to print beside their numbers.
#pragma once
#include "neox/error.h"

namespace neox {

/// How fast `threads` threads together read memory that is in no cache, in bytes/s: the best of a few passes, about a fifth of a second.
/// 0 = the cores this process may use. Throws Error(invalid) for a negative count, Error(memory) where there is no room for the buffer.
NEOX_API double read_bandwidth(int threads);

}  // namespace neox
