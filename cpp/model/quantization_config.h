// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "base/json.h"
#include "model/quantization.h"

namespace neox {

/// Reads quantization_config of compressed-tensors: symmetric integers, 8 bits with a scale for a row ("int-quantized") or 4 with one for a
/// group ("pack-quantized"); inputs as they are, or of 8 bits with a scale for each row. `where` names it in messages. Throws
/// Error(unsupported) naming what else it asks for.
StoredQuantization read_quantization(const Json& config, const std::string& where);

}  // namespace neox
