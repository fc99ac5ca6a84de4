// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include "base/check.h"
#include "model/dummy.h"
#include "model/eleutherai.h"
#include "model/ft_checkpoint.h"
#include "model/ft_config.h"
#include "model/safetensors.h"
#include "model/shards.h"
#include "model/torch_checkpoint.h"
#include "neox/checkpoint.h"

namespace neox {
namespace {

constexpr const char *kSafetensors = "model.safetensors", *kTorch = "pytorch_model.bin";

/// The form of what a folder holds.
std::string detect(const std::string& folder) {
  if (is_ft_folder(folder)) return "ft";
  if (has_weights(folder, kSafetensors)) return "safetensors";
  if (has_weights(folder, kTorch)) return "pt";
  if (!training_step(folder).empty()) return "eleutherai";
  fail(ErrorKind::not_found, folder, " has no weights: expected ", kSafetensors, " or ", kTorch,
       ", or the index of one of them (.index.json) and its shards; or layer_*-model_*-model_states.pt, here, in the folder that a file ",
       "'latest' names or in the only global_step folder; or FasterTransformer's config.ini and model.*.bin");
}

std::unique_ptr<StoredCheckpoint> open_folder(const std::string& folder, const std::string& load_format, const ModelConfig* config) {
  const std::string form = load_format == "auto" ? detect(folder) : load_format;
  if (form == "safetensors") return std::make_unique<SafetensorsCheckpoint>(folder);
  if (form == "pt") return std::make_unique<TorchCheckpoint>(folder);
  if (form == "ft" && !is_ft_folder(folder))
    fail(ErrorKind::not_found, folder, " is no folder of FasterTransformer's: expected config.ini and no config.json");
  if (form == "ft") return std::make_unique<FtCheckpoint>(folder, read_ft_config(folder));
  require(form == "eleutherai", "load_format is '", form, "', expected auto, safetensors, pt, eleutherai, ft or dummy");
  if (config) return std::make_unique<EleutherAiCheckpoint>(folder, *config);
  return std::make_unique<EleutherAiCheckpoint>(folder, find_model_config(folder, ""));
}

std::unique_ptr<StoredCheckpoint> open_file(const std::string& path) {
  if (is_torch_file(MappedFile(path)) || path.ends_with(".bin") || path.ends_with(".pt")) return std::make_unique<TorchCheckpoint>(path);
  return std::make_unique<SafetensorsCheckpoint>(path);
}

std::unique_ptr<StoredCheckpoint> open_any(const std::string& path, const std::string& load_format, const std::string& model_config) {
  if (!is_folder(path)) return open_file(path);
  if (model_config.empty()) return open_folder(path, load_format, nullptr);
  const ModelConfig config = read_model_config(path, model_config);
  return open_folder(path, load_format, &config);
}

}  // namespace

ModelConfig find_model_config(const std::string& folder, const std::string& text) {
  if (!text.empty() || file_exists(folder + "/config.json") || file_exists(folder + "/config.ini")) return read_model_config(folder, text);
  const std::string step = training_step(folder);
  if (!step.empty() && file_exists(step + "/config.json")) return read_model_config(step);
  if (step.empty())
    fail(ErrorKind::not_found, folder,
         " has no config.json, expected a model's folder: HuggingFace's (config.json and weights), a training's (",
         "latest, or layer_*-model_*-model_states.pt), or FasterTransformer's <N>-gpu (config.ini)");
  fail(ErrorKind::not_found, folder, " has a training checkpoint, but no config.json: write one with neoxnative convert --config-only ",
       folder);
}

std::unique_ptr<Checkpoint> open_checkpoint(const std::string& folder, const std::string& load_format, const ModelConfig& config) {
  if (load_format == "dummy") return std::make_unique<DummyCheckpoint>(config);
  return open_folder(folder, load_format, &config);
}

CheckpointReader::CheckpointReader(const std::string& path, const std::string& load_format, const std::string& model_config)
    : stored_(open_any(model_folder(path, 1), load_format, model_config)) {}

CheckpointReader::~CheckpointReader() = default;

std::vector<std::string> CheckpointReader::names() const { return stored_->names(); }
std::vector<int64_t> CheckpointReader::shape(const std::string& name) const { return stored_->shape_of(name); }
std::string CheckpointReader::dtype(const std::string& name) const { return name_of(stored_->dtype_of(name)); }
StoredTensor CheckpointReader::read(const std::string& name) const { return stored_->read(name); }
bool CheckpointReader::same(const std::string& a, const std::string& b) const { return stored_->same(a, b); }
void CheckpointReader::done_with(const std::string& name) { stored_->done_with(name); }

}  // namespace neox
