// SPDX-License-Identifier: Apache-2.0
#include "model/ft_config.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>

#include "base/check.h"
#include "base/file.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

/// One section whose values are checked.
struct Keys {
  const Ini& ini;
  const std::string section;

  bool has(const char* key) const { return ini.has(section, key); }
  int32_t integer(const char* key, int32_t low, int32_t high) const {
    const int32_t value = ini.integer(section, key);
    if (value < low || value > high) ini.reject(section, key, concat(low, " to ", high));
    return value;
  }
  int32_t integer_or(const char* key, int32_t low, int32_t high, int32_t otherwise) const {
    return has(key) ? integer(key, low, high) : otherwise;
  }
  double number(const char* key, double otherwise, double above, double below) const {
    const double value = ini.number_or(section, key, otherwise);
    if (value <= above || value >= below) ini.reject(section, key, concat("a number above ", above, " and below ", below));
    return value;
  }
};

std::vector<int32_t> read_eos(const Keys& keys, const std::string& folder, int32_t vocab_size) {
  std::vector<int32_t> all = generation_eos(folder, vocab_size);
  if (!all.empty() && !keys.has("end_id")) return all;
  const int32_t end = keys.integer("end_id", -1, vocab_size - 1);
  if (std::find(all.begin(), all.end(), end) != all.end()) return all;
  return end < 0 ? std::vector<int32_t>{} : std::vector{end};
}

}  // namespace

std::string model_section(const Ini& ini) {
  if (ini.has("gptneox", "head_num")) return "gptneox";
  std::string found;
  for (const std::string& section : ini.sections()) {
    if (!ini.has(section, "head_num")) continue;
    require(found.empty(), ini.file(), ": [", found, "] and [", section, "] both have head_num, expected one model, in [gptneox]");
    found = section;
  }
  return found.empty() ? "gptneox" : found;
}

std::string weight_data_type(const Ini& ini) {
  const std::string section = model_section(ini), name = ini.text_or(section, "weight_data_type", "fp32");
  if (name == "fp32") return "float32";
  if (name == "fp16") return "float16";
  if (name == "bf16") return "bfloat16";
  ini.reject(section, "weight_data_type", "fp32, fp16 or bf16");
}

int32_t ft_ranks(const std::string& name) {
  int32_t n = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, n);
  return error == std::errc() && std::string_view(stop, size_t(end - stop)) == "-gpu" ? std::max(n, 0) : 0;
}

bool is_ft_folder(const std::string& folder) { return file_exists(folder + "/config.ini") && !file_exists(folder + "/config.json"); }

std::string model_folder(const std::string& path, int32_t ranks) {
  if (file_exists(path + "/config.json") || file_exists(path + "/config.ini")) return path;
  std::map<int32_t, std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path, ignored))
    if (const int32_t n = ft_ranks(entry.path().filename().string()); n > 0 && file_exists(entry.path().string() + "/config.ini"))
      found[n] = entry.path().string();
  if (found.empty()) return path;
  const auto asked = found.find(ranks);
  return asked != found.end() ? asked->second : found.begin()->second;
}

ModelConfig read_ft_config(const std::string& folder) {
  const Ini ini = Ini::read(folder + "/config.ini");
  const Keys keys{ini, model_section(ini)};
  require(keys.has("head_num"), ini.file(), ": no section has head_num, expected [gptneox] with the model's sizes");
  ModelConfig c;
  c.num_hidden_layers = keys.integer(keys.has("num_layer") ? "num_layer" : "decoder_layers", 1, kMaxLayers);
  c.num_attention_heads = keys.integer("head_num", 1, kMaxHeads);
  const int32_t head_dim = keys.integer("size_per_head", 8, kMaxHeadDim);
  if (head_dim % 8 != 0) ini.reject(keys.section, "size_per_head", concat("a multiple of 8 up to ", kMaxHeadDim));
  c.hidden_size = c.num_attention_heads * head_dim;
  require(c.hidden_size <= kMaxHidden, ini.file(), ": head_num * size_per_head is ", c.hidden_size, ", expected at most ", kMaxHidden);
  c.intermediate_size = keys.integer_or("inter_size", 1, kMaxIntermediate, 4 * c.hidden_size);
  c.vocab_size = keys.integer("vocab_size", 1, kMaxVocab);
  c.rotary_dim = keys.integer("rotary_embedding", 0, head_dim);
  c.max_position_embeddings = keys.integer_or("max_position_embeddings", 1, kMaxPositions, 2048);
  c.use_parallel_residual = keys.integer_or("use_gptj_residual", 0, 1, 1) == 1;
  c.layer_norm_eps = keys.number("layernorm_eps", 1e-5, 0, 1);
  c.rotary_base = keys.number("rotary_emb_base", 10000, 1, 1e300);
  c.hidden_act = ini.text_or(keys.section, "hidden_act", "gelu_new");
  c.act = act_named(c.hidden_act, ini.file());
  c.eos_token_ids = read_eos(keys, folder, c.vocab_size);
  c.dtype = weight_data_type(ini);
  return c;
}

}  // namespace neox
