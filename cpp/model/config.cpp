// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <cmath>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "model/ft_config.h"
#include "model/quantization_config.h"

namespace neox {
namespace {

/// One JSON object whose fields are read with their types checked.
struct Fields {
  const std::string& path;
  const Json& object;

  bool has(const char* key) const { return object.contains(key) && !object.at(key).is_null(); }
  template <class Ok> const Json& typed(const char* key, const char* type, Ok ok) const {
    const Json& value = object.at(key);
    require(ok(value), path, ": ", key, " is ", brief(value), ", expected ", type);
    return value;
  }
  int32_t integer(const char* key, int64_t low, int64_t high) const {
    require(has(key), path, ": ", key, " is missing, expected an integer");
    const Json& value = typed(key, "an integer", [](const Json& v) { return v.is_number_integer(); });
    const bool fits = !value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t(high);
    require(fits && value.get<int64_t>() >= low && value.get<int64_t>() <= high, path, ": ", key, " is ", brief(value), ", expected ", low,
            " to ", high);
    return value.get<int32_t>();
  }
  double number(const char* key, double otherwise) const {
    if (!has(key)) return otherwise;
    return typed(key, "a number", [](const Json& v) { return v.is_number(); }).get<double>();
  }
  bool boolean(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    return typed(key, "true or false", [](const Json& v) { return v.is_boolean(); }).get<bool>();
  }
  std::string text(const char* key, const char* otherwise) const {
    if (!has(key)) return otherwise;
    return typed(key, "a string", [](const Json& v) { return v.is_string(); }).get<std::string>();
  }
  std::vector<int32_t> ids(const char* key) const {
    std::vector<int32_t> out;
    if (!has(key)) return out;
    const Json& value = object.at(key);
    for (const Json& id : value.is_array() ? value : Json::array({value})) {
      require(id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() <= INT32_MAX, path, ": ", key, " is ", brief(value),
              ", expected a token id or a list of them");
      out.push_back(id.get<int32_t>());
    }
    return out;
  }
};

Json read_json_object(const std::string& path) { return parse_json_object(read_text(path), path); }

void check_architecture(const Fields& f) {
  require(f.has("model_type"), f.path, ": model_type is missing, expected gpt_neox");
  const std::string type = f.text("model_type", "");
  if (type == "gpt_neox") return;
  if (type == "stablelm" || type == "stablelm_epoch" || type == "stablelm_alpha")
    fail(ErrorKind::unsupported, f.path, ": model_type is '", type,
         "', an architecture of its own; of StableLM only alpha v1 (gpt_neox) is GPT-NeoX");
  if (type == "gpt_neox_japanese")
    fail(ErrorKind::unsupported, f.path,
         ": model_type is 'gpt_neox_japanese' (abeja), another architecture; rinna's japanese-gpt-neox is gpt_neox");
  fail(ErrorKind::unsupported, f.path, ": model_type is '", type, "', expected gpt_neox");
}

/// transformers 5 writes rope_parameters; before that there were rotary_pct, rotary_emb_base and rope_scaling.
void read_rope(const Fields& f, ModelConfig& c) {
  double fraction = f.number("rotary_pct", 0.25);
  c.rotary_base = f.number("rotary_emb_base", f.number("rope_theta", 10000));
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!f.has(key)) continue;
    require(f.object.at(key).is_object(), f.path, ": ", key, " is ", brief(f.object.at(key)), ", expected an object");
    const std::string where = f.path + ": " + key;
    const Fields rope{where, f.object.at(key)};
    const std::string type = rope.text("rope_type", rope.text("type", "default").c_str());
    if (type != "default") fail(ErrorKind::unsupported, where, ": rope_type is '", type, "', expected default (no scaling)");
    fraction = rope.number("partial_rotary_factor", fraction);
    c.rotary_base = rope.number("rope_theta", c.rotary_base);
  }
  require(fraction >= 0 && fraction <= 1, f.path, ": the rotary fraction is ", fraction, ", expected 0 to 1");
  require(c.rotary_base > 1 && std::isfinite(c.rotary_base), f.path, ": the rotary base is ", c.rotary_base, ", expected more than 1");
  c.rotary_dim = int32_t(c.head_dim() * fraction);
  require(2 * c.rotary_half() <= c.head_dim(), f.path, ": ", c.rotary_dim, " rotary dimensions, rounded up to even, exceed the head size ",
          c.head_dim());
}

void check_eos(const std::string& folder, const std::vector<int32_t>& ids, int32_t vocab_size) {
  for (int32_t id : ids) require(id < vocab_size, folder, ": eos_token_id is ", id, ", expected less than vocab_size ", vocab_size);
}

}  // namespace

Act act_named(const std::string& name, const std::string& path) {
  if (name == "gelu") return Act::gelu;
  if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") return Act::gelu_tanh;
  if (name == "relu") return Act::relu;
  if (name == "silu" || name == "swish") return Act::silu;
  fail(ErrorKind::unsupported, path, ": hidden_act is '", name, "', expected gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu or silu");
}

std::vector<int32_t> generation_eos(const std::string& folder, int32_t vocab_size) {
  const std::string path = folder + "/generation_config.json";
  if (!file_exists(path)) return {};
  const Json json = read_json_object(path);
  const std::vector<int32_t> ids = Fields{path, json}.ids("eos_token_id");
  check_eos(folder, ids, vocab_size);
  return ids;
}

int64_t ModelConfig::parameters() const {
  const int64_t h = hidden_size, f = intermediate_size, norm = 2 * h;
  const int64_t attention = 4 * h * h + (attention_bias ? 4 * h : 0), mlp = 2 * h * f + f + h;
  return int64_t(vocab_size) * h * (tie_word_embeddings ? 1 : 2) + num_hidden_layers * (attention + mlp + 2 * norm) + norm;
}

ModelConfig read_model_config(const std::string& folder, const std::string& text) {
  if (text.empty() && is_ft_folder(folder)) return read_ft_config(folder);
  const std::string path = text.empty() ? folder + "/config.json" : folder + ": its configuration";
  const Json json = text.empty() ? read_json_object(path) : parse_json_object(text, path);
  const Fields f{path, json};
  check_architecture(f);
  ModelConfig c;
  c.num_hidden_layers = f.integer("num_hidden_layers", 1, kMaxLayers);
  c.hidden_size = f.integer("hidden_size", 8, kMaxHidden);
  c.num_attention_heads = f.integer("num_attention_heads", 1, kMaxHeads);
  c.intermediate_size = f.integer("intermediate_size", 1, kMaxIntermediate);
  c.vocab_size = f.integer("vocab_size", 1, kMaxVocab);
  c.max_position_embeddings = f.integer("max_position_embeddings", 1, kMaxPositions);
  require(c.hidden_size % c.num_attention_heads == 0, path, ": hidden_size ", c.hidden_size, " is not a multiple of num_attention_heads ",
          c.num_attention_heads);
  require(c.head_dim() % 8 == 0 && c.head_dim() <= kMaxHeadDim, path, ": the head size hidden_size / num_attention_heads is ", c.head_dim(),
          ", expected a multiple of 8 up to 256");
  c.layer_norm_eps = f.number("layer_norm_eps", 1e-5);
  require(c.layer_norm_eps > 0 && c.layer_norm_eps < 1, path, ": layer_norm_eps is ", c.layer_norm_eps,
          ", expected more than 0 and less than 1");
  c.hidden_act = f.text("hidden_act", "gelu");
  c.act = act_named(c.hidden_act, path);
  c.use_parallel_residual = f.boolean("use_parallel_residual", true);
  c.attention_bias = f.boolean("attention_bias", true);
  c.tie_word_embeddings = f.boolean("tie_word_embeddings", false);
  c.dtype = f.text("dtype", f.text("torch_dtype", "float32").c_str());
  if (f.has("quantization_config")) c.quantization = read_quantization(json.at("quantization_config"), path + ": quantization_config");
  read_rope(f, c);
  c.eos_token_ids = generation_eos(folder, c.vocab_size);
  if (c.eos_token_ids.empty()) c.eos_token_ids = f.ids("eos_token_id");
  check_eos(folder, c.eos_token_ids, c.vocab_size);
  return c;
}

}  // namespace neox
