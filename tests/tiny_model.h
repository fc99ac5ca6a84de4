// SPDX-License-Identifier: Apache-2.0
// A GPT-NeoX model of a few thousand random weights, written as a HuggingFace folder.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "temp_folder.h"

namespace neox::test {

struct TinyModel {
  uint32_t seed = 1;
  int32_t layers = 2, heads = 2, head_dim = 16, intermediate = 96, vocab = 131, positions = 256;
  int32_t nan_token = -1;  // an id whose embedding is NaN: a request with it fails
  int32_t nan_layer = -1;  // a layer whose MLP adds NaN
  bool parallel_residual = true;

  int32_t hidden() const { return heads * head_dim; }
  /// Bytes of a page of 16 positions of float32 k and v.
  int64_t page_bytes() const { return int64_t(2) * layers * 16 * heads * ((head_dim + 15) / 16 * 16) * 4; }
};

/// The tensors of a safetensors file, one after another.
class Safetensors {
 public:
  explicit Safetensors(uint32_t seed) : random_(seed) {}

  /// Uniform values of this mean and standard deviation. A vector where cols is 0.
  std::vector<float>& add(const std::string& name, int32_t rows, int32_t cols, double mean, double deviation) {
    const size_t begin = bytes_, count = size_t(rows) * size_t(cols ? cols : 1);
    bytes_ += 4 * count;
    const std::string shape = std::to_string(rows) + (cols ? "," + std::to_string(cols) : "");
    header_ += (header_.empty() ? "{\"" : ",\"") + name + R"(":{"dtype":"F32","shape":[)" + shape + R"(],"data_offsets":[)" +
               std::to_string(begin) + "," + std::to_string(bytes_) + "]}";
    auto& values = tensors_.emplace_back(count);
    for (float& x : values) x = float(mean + deviation * std::sqrt(12.0) * (double(random_()) / 4294967296.0 - 0.5));
    return values;
  }
  std::vector<float>& last() { return tensors_.back(); }
  std::string file() const {
    std::string header = header_ + "}";
    header.append((8 - header.size() % 8) % 8, ' ');
    const uint64_t length = header.size();
    std::string out(reinterpret_cast<const char*>(&length), sizeof length);
    out += header;
    for (const auto& values : tensors_) out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    return out;
  }

 private:
  std::mt19937 random_;
  std::string header_;
  std::vector<std::vector<float>> tensors_;
  size_t bytes_ = 0;
};

inline std::string tiny_weights(const TinyModel& m) {
  Safetensors file(m.seed);
  const int32_t h = m.hidden();
  const auto norm = [&](const std::string& name) {
    file.add(name + ".weight", h, 0, 1, 0.2);
    file.add(name + ".bias", h, 0, 0, 0.1);
  };
  const auto linear = [&](const std::string& name, int32_t outputs, int32_t inputs) {
    file.add(name + ".weight", outputs, inputs, 0, 1.5 / std::sqrt(double(inputs)));
    file.add(name + ".bias", outputs, 0, 0, 0.2);
  };
  auto& embedding = file.add("gpt_neox.embed_in.weight", m.vocab, h, 0, 1);
  for (int32_t i = 0; i < h && m.nan_token >= 0; i++) embedding[size_t(m.nan_token * h + i)] = std::numeric_limits<float>::quiet_NaN();
  for (int32_t l = 0; l < m.layers; l++) {
    const std::string p = "gpt_neox.layers." + std::to_string(l) + ".";
    norm(p + "input_layernorm");
    norm(p + "post_attention_layernorm");
    linear(p + "attention.query_key_value", 3 * h, h);
    linear(p + "attention.dense", h, h);
    linear(p + "mlp.dense_h_to_4h", m.intermediate, h);
    linear(p + "mlp.dense_4h_to_h", h, m.intermediate);
    if (l == m.nan_layer) file.last()[0] = std::numeric_limits<float>::quiet_NaN();
  }
  norm("gpt_neox.final_layer_norm");
  file.add("embed_out.weight", m.vocab, h, 0, 1.5 / std::sqrt(double(h)));
  return file.file();
}

inline std::string tiny_config(const TinyModel& m) {
  const auto field = [](const char* name, int32_t value) { return std::string(", \"") + name + "\": " + std::to_string(value); };
  return R"({"model_type": "gpt_neox", "hidden_act": "gelu", "rotary_pct": 0.25, "eos_token_id": 0, "torch_dtype": "float32", "use_parallel_residual": )" +
         std::string(m.parallel_residual ? "true" : "false") + field("num_hidden_layers", m.layers) + field("hidden_size", m.hidden()) +
         field("num_attention_heads", m.heads) + field("intermediate_size", m.intermediate) + field("vocab_size", m.vocab) +
         field("max_position_embeddings", m.positions) + "}";
}

inline void write_tiny_model(const TempFolder& folder, const TinyModel& model) {
  folder.write("config.json", tiny_config(model));
  folder.write("model.safetensors", tiny_weights(model));
}

}  // namespace neox::test
