// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backend/tune.h"

namespace neox::cuda {

std::unique_ptr<Tuner> make_tuner(int device, DType type, const std::vector<TuneCall>& calls, int32_t most_rows);

}  // namespace neox::cuda
