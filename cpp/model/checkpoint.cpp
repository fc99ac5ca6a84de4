// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include "base/check.h"
#include "model/dummy.h"
#include "model/safetensors.h"

namespace neox {

std::unique_ptr<Checkpoint> open_checkpoint(const std::string& folder, const std::string& load_format, const ModelConfig& config) {
  if (load_format == "dummy") return std::make_unique<DummyCheckpoint>(config);
  require(load_format == "auto" || load_format == "safetensors", "load_format is '", load_format, "', expected auto, safetensors or dummy");
  return std::make_unique<SafetensorsCheckpoint>(folder);
}

}  // namespace neox
