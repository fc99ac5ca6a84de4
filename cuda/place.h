// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "base/gemm_config.h"

namespace neox::cuda {

/// What algorithms were measured on, and hold for.
GemmPlace place_of(int device);

}  // namespace neox::cuda
