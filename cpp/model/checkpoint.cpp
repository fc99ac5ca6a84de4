// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include "base/check.h"
#include "model/dummy.h"
#include "model/ft_checkpoint.h"
#include "model/ft_config.h"
#include "model/safetensors.h"
#include "neox/checkpoint.h"

namespace neox {
namespace {

std::unique_ptr<StoredCheckpoint> open_stored(const std::string& path, const std::string& load_format) {
  const bool any = load_format == "auto";
  require(any || load_format == "safetensors" || load_format == "ft", "load_format is '", load_format,
          "', expected auto, safetensors, ft or dummy");
  if (load_format == "ft" && !is_ft_folder(path))
    fail(ErrorKind::not_found, path, " is no folder of FasterTransformer's: expected config.ini and no config.json");
  if (load_format == "ft" || (any && is_ft_folder(path))) return std::make_unique<FtCheckpoint>(path, read_ft_config(path));
  return std::make_unique<SafetensorsCheckpoint>(path);
}

}  // namespace

std::unique_ptr<Checkpoint> open_checkpoint(const std::string& folder, const std::string& load_format, const ModelConfig& config) {
  if (load_format == "dummy") return std::make_unique<DummyCheckpoint>(config);
  return open_stored(folder, load_format);
}

CheckpointReader::CheckpointReader(const std::string& path, const std::string& load_format, const std::string&)
    : stored_(open_stored(model_folder(path, 1), load_format)) {}

CheckpointReader::~CheckpointReader() = default;

std::vector<std::string> CheckpointReader::names() const { return stored_->names(); }
std::vector<int64_t> CheckpointReader::shape(const std::string& name) const { return stored_->shape_of(name); }
std::string CheckpointReader::dtype(const std::string& name) const { return name_of(stored_->dtype_of(name)); }
StoredTensor CheckpointReader::read(const std::string& name) const { return stored_->read(name); }
bool CheckpointReader::same(const std::string& a, const std::string& b) const { return stored_->same(a, b); }
void CheckpointReader::done_with(const std::string& name) { stored_->done_with(name); }

}  // namespace neox
