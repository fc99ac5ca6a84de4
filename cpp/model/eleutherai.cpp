// SPDX-License-Identifier: Apache-2.0
#include "model/eleutherai.h"

#include <algorithm>
#include <filesystem>
#include <regex>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

struct FilePlace {
  int layer, rank;
};

std::string file_name(int layer, int rank) {
  const auto two = [](int n) { return concat(n < 10 ? "0" : "", n); };
  return concat("layer_", two(layer), "-model_", two(rank), "-model_states.pt");
}

/// Which layer and rank the layer files of a folder are of.
std::vector<FilePlace> layer_files(const std::string& folder) {
  static const std::regex pattern(R"(layer_(\d{1,4})-model_(\d{1,4})-model_states\.pt)");
  std::vector<FilePlace> out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    std::smatch match;
    if (!std::regex_match(name, match, pattern)) continue;
    const FilePlace place{std::stoi(match[1]), std::stoi(match[2])};
    if (name == file_name(place.layer, place.rank)) out.push_back(place);
  }
  return out;
}

bool has_layer_files(const std::string& folder) { return is_folder(folder) && !layer_files(folder).empty(); }

/// How the ranks' parts of a tensor make the whole.
Entry::Join join_of(const std::string& name, bool parallel_residual) {
  if (name.find("norm.") != std::string::npos || name.ends_with("rotary_emb.inv_freq")) return Entry::Join::mean;
  if (name == "attention.dense.bias" || name == "mlp.dense_4h_to_h.bias") return parallel_residual ? Entry::Join::sum : Entry::Join::mean;
  return Entry::Join::along_axis;
}

/// The last dimension is what the ranks share: of a matrix whose inputs are, and of an output layer that was made that way.
bool is_row_parallel(const std::string& name, const std::vector<int64_t>& shape, const ModelConfig& config) {
  return name == "attention.dense.weight" || name == "mlp.dense_4h_to_h.weight" ||
         (name == "final_linear.weight" && shape.size() == 2 && shape[1] < config.hidden_size);
}

std::string hugging_face_name(const std::string& name) {
  if (name == "word_embeddings.weight") return "gpt_neox.embed_in.weight";
  if (name == "norm.weight") return "gpt_neox.final_layer_norm.weight";
  if (name == "norm.bias") return "gpt_neox.final_layer_norm.bias";
  if (name == "final_linear.weight") return "embed_out.weight";
  return name;
}

}  // namespace

std::string training_step(const std::string& path) {
  if (!is_folder(path)) return "";
  if (has_layer_files(path)) return path;
  if (const std::string latest = path + "/latest"; file_exists(latest)) {
    const std::string text = read_text_file(latest, 4096);
    const std::string step(trimmed(text.substr(0, text.find('\n'))));
    require(!step.empty() && step.find('/') == std::string::npos, latest, " says ", neox::quoted(step),
            ", expected the name of a folder beside it");
    require(has_layer_files(path + "/" + step), latest, " says ", neox::quoted(step), ", but there are no files such as ", file_name(0, 0),
            " in ", path, "/", step);
    return path + "/" + step;
  }
  std::vector<std::string> steps;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.path().filename().string().starts_with("global_step") && has_layer_files(entry.path().string()))
      steps.push_back(entry.path().filename().string());
  std::sort(steps.begin(), steps.end());
  require(steps.size() <= 1, path, " has ", steps.size(), " steps (", steps.empty() ? "" : steps.front(), " to ",
          steps.empty() ? "" : steps.back(), ") and no file 'latest' that names one: give the folder of one of them");
  return steps.empty() ? "" : path + "/" + steps[0];
}

EleutherAiCheckpoint::EleutherAiCheckpoint(const std::string& path, const ModelConfig& config) : StoredCheckpoint(path) {
  const std::string step = training_step(path);
  if (step.empty()) fail(ErrorKind::not_found, path, " has no training checkpoint: expected files such as ", file_name(0, 0));
  open(step, config);
}

EleutherAiCheckpoint::LayerFile EleutherAiCheckpoint::read(const std::string& path) {
  LayerFile file{.path = path, .tensors = {}};
  for (TorchTensor& t : read_torch_file(map(path))) file.tensors.emplace(t.name, std::move(t));
  return file;
}

void EleutherAiCheckpoint::open(const std::string& step, const ModelConfig& config) {
  std::map<int, std::vector<int>> files;  // layer -> ranks
  int ranks = 0, layers = 0, last = 0;
  for (const FilePlace& place : layer_files(step)) files[place.layer].push_back(place.rank), ranks = std::max(ranks, place.rank + 1);
  for (const auto& [index, there] : files) {
    std::vector<LayerFile> parts;
    for (int rank = 0; rank < ranks; rank++) {
      const std::string path = step + "/" + file_name(index, rank);
      if (std::find(there.begin(), there.end(), rank) == there.end())
        fail(ErrorKind::not_found, path, " is missing: the checkpoint has files of ", ranks, " tensor-parallel ranks");
      parts.push_back(read(path));
    }
    std::string prefix;
    if (parts[0].tensors.contains("attention.dense.weight")) {
      if (layers > 0 && index != last + 1)
        fail(ErrorKind::not_found, step, "/", file_name(last + 1, 0), " is missing: layer ", layers, " of the model");
      prefix = concat("gpt_neox.layers.", layers++, "."), last = index;
    }
    for (const LayerFile& part : parts)
      for (const auto& [from, t] : part.tensors)
        require(parts[0].tensors.contains(from), parts[0].path, " has no ", from, ", which is in ", part.path);
    for (const auto& [from, t] : parts[0].tensors) merge(parts, from, prefix.empty() ? hugging_face_name(from) : prefix + from, config);
  }
  require(layers == config.num_hidden_layers, step, " has ", layers, " transformer layers, the last of them in ", file_name(last, 0),
          ", expected num_hidden_layers ", config.num_hidden_layers);
}

void EleutherAiCheckpoint::merge(const std::vector<LayerFile>& ranks, const std::string& from, const std::string& to,
                                 const ModelConfig& config) {
  const TorchTensor& first = ranks[0].tensors.at(from);
  if (!first.refusal.empty()) return refuse(to, first.refusal);
  Entry e{.parts = {}, .shape = first.tensor.shape};
  if (ranks.size() > 1) e.join = join_of(from, config.use_parallel_residual);
  e.axis = is_row_parallel(from, e.shape, config) ? 1 : 0;
  for (const LayerFile& rank : ranks) {
    const auto found = rank.tensors.find(from);
    require(found != rank.tensors.end(), rank.path, " has no ", from, ", which is in ", ranks[0].path);
    const FileTensor& part = found->second.tensor;
    require(found->second.refusal.empty() && part.dtype == first.tensor.dtype && part.wide == first.tensor.wide && part.shape == e.shape,
            rank.path, ": ", from, " is ", shape_text(part.shape), " in ", name_of(part.dtype), ", expected ", shape_text(e.shape), " in ",
            name_of(first.tensor.dtype), ", as in ", ranks[0].path);
    e.parts.push_back(part);
  }
  if (e.join == Entry::Join::along_axis && ranks.size() > 1) {
    require(e.axis < e.shape.size(), ranks[0].path, ": ", from, " is ", shape_text(e.shape), ", expected a vector or a matrix");
    e.shape[e.axis] *= int64_t(ranks.size());
  }
  require(add(to, std::move(e)), ranks[0].path, ": ", from, " is also in another file");
}

}  // namespace neox
