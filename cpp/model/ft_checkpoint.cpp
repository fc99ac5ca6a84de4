// SPDX-License-Identifier: Apache-2.0
#include "model/ft_checkpoint.h"

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "model/ft_config.h"

namespace neox {
namespace {

constexpr char kPrefix[] = "gpt_neox.";  // HuggingFace's names are "gpt_neox.layers...", the files' "model.layers..."

int32_t count_ranks(const std::string& folder) {
  const std::string name = std::filesystem::path(folder + "/").lexically_normal().parent_path().filename().string();
  if (const int32_t n = ft_ranks(name); n > 0) return n;
  int32_t n = 0;
  while (file_exists(concat(folder, "/model.layers.0.attention.query_key_value.weight.", n, ".bin"))) n++;
  return std::max(n, 1);
}

}  // namespace

FtCheckpoint::FtCheckpoint(const std::string& folder, const ModelConfig& config)
    : StoredCheckpoint(folder), folder_(folder), dtype_(dtype_named(config.dtype)), ranks_(count_ranks(folder)) {
  require(config.num_attention_heads % ranks_ == 0 && config.intermediate_size % ranks_ == 0, folder, " is cut for ", ranks_,
          " ranks, expected a divisor of head_num ", config.num_attention_heads, " and inter_size ", config.intermediate_size);
  add_whole("gpt_neox.embed_in.weight", "model.wte", {config.vocab_size, config.hidden_size});
  add_whole("embed_out.weight", "model.lm_head.weight", {config.vocab_size, config.hidden_size});
  for (const char* part : {"weight", "bias"})
    add_whole(concat("gpt_neox.final_layer_norm.", part), concat("model.final_layernorm.", part), {config.hidden_size});
  for (int32_t i = 0; i < config.num_hidden_layers; i++) add_layer(config, i);
  const std::string next = concat(folder, "/model.layers.", config.num_hidden_layers, ".input_layernorm.weight.bin");
  require(!file_exists(next), next, " is there, but config.ini's num_layer is ", config.num_hidden_layers);
}

FileTensor FtCheckpoint::file(const std::string& name, std::vector<int64_t> shape, std::vector<int64_t> strides) {
  FileTensor t{.dtype = dtype_, .shape = std::move(shape), .strides = std::move(strides)};
  const std::string path = folder_ + "/" + name + ".bin";
  const auto bytes = uint64_t(t.count()) * size_of(dtype_);
  if (!file_exists(path)) fail(ErrorKind::not_found, path, " is missing, expected a file of ", bytes, " bytes");
  t.file = &map(path);
  require(t.file->size() == bytes, path, " holds ", t.file->size(), " bytes, expected ", bytes, " (config.ini's sizes, ", name_of(dtype_),
          ", ", ranks_, ranks_ == 1 ? " rank)" : " ranks)");
  t.data = t.file->data();
  return t;
}

void FtCheckpoint::add_whole(const std::string& name, const std::string& file_name, std::vector<int64_t> shape) {
  add(name, file(file_name, shape, row_major(shape)));
}

/// Of which each rank's file has a part of this shape and these strides.
void FtCheckpoint::add_cut(const std::string& name, std::vector<int64_t> shape, size_t axis, std::vector<int64_t> part,
                           std::vector<int64_t> strides) {
  Entry e{.shape = std::move(shape), .axis = axis};
  for (int32_t rank = 0; rank < ranks_; rank++) e.parts.push_back(file(concat("model.", name, ".", rank), part, strides));
  add(kPrefix + name, std::move(e));
}

void FtCheckpoint::add_layer(const ModelConfig& config, int32_t index) {
  const std::string layer = concat("layers.", index, ".");
  const int64_t h = config.hidden_size, f = config.intermediate_size, d = config.head_dim();
  const int64_t hidden = h / ranks_, heads = hidden / d, inner = f / ranks_;  // of a rank
  const auto whole = [&](const std::string& name) { add_whole(kPrefix + layer + name, "model." + layer + name, {h}); };
  for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) whole(concat(norm, ".weight")), whole(concat(norm, ".bias"));
  // The files' axes in HuggingFace's order: a head's q, k and v, then their elements, then inputs.
  add_cut(layer + "attention.query_key_value.weight", {3 * h, h}, 0, {heads, 3, d, h}, {d, hidden, 1, 3 * hidden});
  add_cut(layer + "attention.query_key_value.bias", {3 * h}, 0, {heads, 3, d}, {d, hidden, 1});
  add_cut(layer + "attention.dense.weight", {h, h}, 1, {h, hidden}, {1, h});
  add_cut(layer + "mlp.dense_h_to_4h.weight", {f, h}, 0, {inner, h}, {1, inner});
  add_cut(layer + "mlp.dense_h_to_4h.bias", {f}, 0, {inner}, {1});
  add_cut(layer + "mlp.dense_4h_to_h.weight", {h, f}, 1, {h, inner}, {1, h});
  if (config.use_parallel_residual) return add_sum(layer, h);
  whole("attention.dense.bias");
  whole("mlp.dense_4h_to_h.bias");
}

/// The parallel residual's two biases, not divided.
void FtCheckpoint::add_sum(const std::string& layer, int64_t hidden) {
  const FileTensor sum = file("model." + layer + "mlp.attention.bias.sum", {hidden}, {1});
  const std::string names[] = {layer + "attention.dense.bias", layer + "mlp.dense_4h_to_h.bias"};
  const auto add_scaled = [&](const std::string& name, const FileTensor& bias, int32_t scale) {
    add(kPrefix + name, Entry{.parts = {bias}, .shape = {hidden}, .join = Entry::Join::sum, .scale = double(scale)});
  };
  const auto there = [&](const std::string& name) { return file_exists(folder_ + "/model." + name + ".bin"); };
  if (there(names[0]) && there(names[1])) {
    const FileTensor attention = file("model." + names[0], {hidden}, {1}), mlp = file("model." + names[1], {hidden}, {1});
    bool same = true;
    for (int64_t i = 0; i < hidden; i++) {
      char added[4];
      store_from_f32(added, dtype_, 0, load_as_f32(attention.data, dtype_, i) + load_as_f32(mlp.data, dtype_, i));
      same &= load_as_f32(added, dtype_, 0) == load_as_f32(sum.data, dtype_, i);
    }
    if (same) return add_scaled(names[0], attention, ranks_), add_scaled(names[1], mlp, ranks_);
  }
  add_scaled(names[0], sum, 0);
  add_scaled(names[1], sum, ranks_);
}

}  // namespace neox
