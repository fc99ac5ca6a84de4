// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include "base/check.h"
#include "model/dummy.h"
#include "model/safetensors.h"
#include "neox/checkpoint.h"

namespace neox {
namespace {

std::unique_ptr<StoredCheckpoint> open_stored(const std::string& path, const std::string& load_format) {
  require(load_format == "auto" || load_format == "safetensors", "load_format is '", load_format, "', expected auto, safetensors or dummy");
  return std::make_unique<SafetensorsCheckpoint>(path);
}

}  // namespace

std::unique_ptr<Checkpoint> open_checkpoint(const std::string& folder, const std::string& load_format, const ModelConfig& config) {
  if (load_format == "dummy") return std::make_unique<DummyCheckpoint>(config);
  return open_stored(folder, load_format);
}

CheckpointReader::CheckpointReader(const std::string& path, const std::string& load_format, const std::string&)
    : stored_(open_stored(path, load_format)) {}

CheckpointReader::~CheckpointReader() = default;

std::vector<std::string> CheckpointReader::names() const { return stored_->names(); }
std::vector<int64_t> CheckpointReader::shape(const std::string& name) const { return stored_->shape_of(name); }
std::string CheckpointReader::dtype(const std::string& name) const { return name_of(stored_->dtype_of(name)); }
StoredTensor CheckpointReader::read(const std::string& name) const { return stored_->read(name); }
bool CheckpointReader::same(const std::string& a, const std::string& b) const { return stored_->same(a, b); }
void CheckpointReader::done_with(const std::string& name) { stored_->done_with(name); }

}  // namespace neox
