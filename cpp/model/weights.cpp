// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "base/pieces.h"

namespace neox {
namespace {

int64_t rows_of_a_piece(const Tensor& t) { return std::max<int64_t>(1, kFetchBytes / (t.ld * int64_t(size_of(t.dtype)))); }

/// float16 ends at 65504: a weight beyond it would silently become infinite.
void check_range(const std::string& name, const Tensor& w, DType dtype) {
  if (dtype != DType::f16 || w.dtype == DType::f16) return;
  std::array<float, kFetchThreads> largest{};  // of each thread's rows
  in_pieces(w.rows, rows_of_a_piece(w), kFetchThreads, [&](int thread, int64_t begin, int64_t end) {
    fetch(w.from(begin).data, size_t((end - begin) * w.ld) * size_of(w.dtype));
    dispatch(w.dtype, [&](auto type) {
      float most = largest[size_t(thread)];
      for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; i < w.cols; i++) most = std::max(most, std::fabs(load_as_f32<type>(w.data, r * w.ld + i)));
      largest[size_t(thread)] = most;
    });
  });
  const float most = *std::max_element(largest.begin(), largest.end());
  require(most < 65520.f, name, " has magnitudes up to ", most, ", beyond float16's 65504: use dtype bfloat16 or float32");
}

/// from, of its own type, becomes `to`, [rows, cols] row-major of type dtype.
void convert(char* to, const Tensor& from, DType dtype) {
  in_pieces(from.rows, rows_of_a_piece(from), kFetchThreads, [&](int, int64_t begin, int64_t end) {
    fetch(from.from(begin).data, size_t((end - begin) * from.ld) * size_of(from.dtype));
    dispatch(from.dtype, [&](auto f) {
      dispatch(dtype, [&](auto t) {
        for (int64_t r = begin; r < end; r++)
          for (int64_t i = 0; i < from.cols; i++) store_from_f32<t>(to, r * from.cols + i, load_as_f32<f>(from.data, r * from.ld + i));
      });
    });
  });
}

bool has_matrix(const Checkpoint& c, const std::string& name) { return c.has(name) || c.is_quantized(name); }

}  // namespace

Weights::Weights(Backend& backend, Checkpoint& checkpoint, const ModelConfig& config, const Shard& shard, DType dtype,
                 const Quantization& quantization, std::vector<std::string>& warnings,
                 const std::function<void(int32_t, int32_t)>& on_layer)
    : backend_(backend), checkpoint_(checkpoint), config_(config), shard_(shard), dtype_(dtype), quantization_(quantization),
      arena_(backend) {
  const Stage& stage = shard.stage;
  if (stage.first()) embedding = table("gpt_neox.embed_in.weight");
  for (int32_t i = stage.first_layer; i < stage.last_layer; i++) {
    layers.push_back(layer(i));
    if (on_layer) on_layer(i + 1 - stage.first_layer, stage.last_layer - stage.first_layer);
  }
  if (stage.last()) {
    final_norm = norm("gpt_neox.final_layer_norm");
    head.weight = head_rows(head_name(warnings));
  }
  rope = make_rope();
  backend_.synchronize();
  warn_of_the_rest(warnings);
}

/// The head that config.json ties to the embedding is not tied where the checkpoint holds another one, as in HuggingFace.
std::string Weights::head_name(std::vector<std::string>& warnings) const {
  const std::string embedding_name = "gpt_neox.embed_in.weight",
                    stored = has_matrix(checkpoint_, "lm_head.weight") ? "lm_head.weight" : "embed_out.weight";
  if (!config_.tie_word_embeddings) return stored;
  if (!has_matrix(checkpoint_, stored)) return embedding_name;
  if (!checkpoint_.is_quantized(stored) && checkpoint_.same(stored, embedding_name)) return embedding_name;
  warnings.push_back("tie_word_embeddings is true, but the checkpoint's " + stored + " differs from its embedding: it is used as it is");
  return stored;
}

Tensor Weights::vector(const Tensor& source, DType dtype) {
  std::vector<char> values(size_t(source.cols) * size_of(dtype));
  for (int64_t i = 0; i < source.cols; i++) store_from_f32(values.data(), dtype, i, load_as_f32(source.data, source.dtype, i));
  Tensor out = arena_.tensor(1, source.cols, dtype);
  backend_.upload(out.data, values.data(), values.size());
  return out;
}

Tensor Weights::vector(const std::string& name, int64_t n) { return vector(checkpoint_.get(name, 1, n)); }

/// Of a matrix whose rows the ranks share.
Tensor Weights::bias(const std::string& name, int64_t n) {
  Tensor source = checkpoint_.get(name, 1, n);
  const DType dtype = backend_.activation_dtype(dtype_);
  source = shard_.cols_of(source);
  check_range(name, source, dtype);
  return vector(source, dtype);
}

Tensor Weights::sum(const std::string& a, const std::string& b) {
  const int64_t n = config_.hidden_size;
  std::vector<float> values(static_cast<size_t>(n));
  for (const std::string& name : {a, b}) {
    const Tensor x = checkpoint_.get(name, 1, n);
    for (int64_t i = 0; i < n; i++) values[size_t(i)] += load_as_f32(x.data, x.dtype, i);
  }
  return vector({.data = values.data(), .rows = 1, .cols = n, .ld = n, .dtype = DType::f32});
}

Norm Weights::norm(const std::string& name) {
  const int64_t n = config_.hidden_size;
  return {.gamma = vector(name + ".weight", n), .beta = vector(name + ".bias", n), .eps = float(config_.layer_norm_eps)};
}

/// format: what numbers become.
Tensor Weights::packed(const std::string& name, const Tensor& part, Format format) {
  if (!is_float(part.dtype)) {
    const bool narrow = quantization_.narrow_inputs;
    const DType four = narrow ? DType::w4a8 : DType::i4, eight = narrow ? DType::w8a8 : DType::i8;
    format = {part.dtype == DType::i4 ? four : eight, part.group};
  }
  check_groups(name, part.cols, format);
  if (is_float(format.dtype)) check_range(name, part, format.dtype);
  const Tensor out = backend_.pack(arena_.allocate(backend_.packed_bytes(part.rows, part.cols, format)), part, format);
  checkpoint_.done_with(name);
  return out;
}

void Weights::check_groups(const std::string& name, int64_t inputs, Format format) const {
  require(format.group == 0 || inputs % format.group == 0, "quantization ", name_of(format.dtype), " has groups of ", format.group,
          " inputs, which do not divide the ", inputs, " of ", name, shard_.ranks > 1 ? " on each rank" : "",
          ": expected a quantization_group_size that does");
}

/// Made by the backend, if the checkpoint is one of random values: much sooner than read.
Tensor Weights::random(const std::string& name, int64_t rows, int64_t cols, Cut cut, Format format) {
  std::optional<RandomFill> values = checkpoint_.random(name, rows, cols);
  if (!values) return {};
  const int64_t part_rows = cut == Cut::rows ? shard_.share(rows) : rows, part_cols = cut == Cut::cols ? shard_.share(cols) : cols;
  values->first = shard_.rank * (cut == Cut::rows ? part_rows * cols : part_cols);
  check_groups(name, part_cols, format);
  return backend_.pack_random(arena_.allocate(backend_.packed_bytes(part_rows, part_cols, format)), part_rows, part_cols, *values, format);
}

/// Of numbers, or of integers.
Tensor Weights::source_of(const std::string& name, int64_t rows, int64_t cols) {
  return checkpoint_.is_quantized(name) ? checkpoint_.get_integers(name, rows, cols) : checkpoint_.get(name, rows, cols);
}

Tensor Weights::matrix(const std::string& name, int64_t rows, int64_t cols, Cut cut, Format format) {
  if (const Tensor made = random(name, rows, cols, cut, format)) return made;
  const Tensor source = source_of(name, rows, cols);
  if (cut == Cut::cols && source.group) check_groups(name, shard_.share(cols), source.format());
  return packed(name, cut == Cut::rows ? shard_.rows_of(source) : shard_.cols_of(source), format);
}

/// This rank's rows of the vocabulary, and zeros where there are no more.
Tensor Weights::head_rows(const std::string& name) {
  if (shard_.ranks == 1) return matrix(name, config_.vocab_size, config_.hidden_size, Cut::rows, quantization_.head);
  const Tensor source = source_of(name, config_.vocab_size, config_.hidden_size);
  const int64_t rows = shard_.vocab_rows(config_), first = std::min(shard_.rank * rows, source.rows);
  const int64_t there = std::min(rows, source.rows - first);
  if (there == rows) return packed(name, source.from(first).first(rows), quantization_.head);
  // Integers stand for 0 where their scale is 0.
  const size_t row_bytes = size_t(source.cols * bits_of(source.dtype) / 8);
  const size_t scales = source.scale ? size_t(source.group ? source.cols / source.group : 1) * size_of(source.scale_dtype) : 0;
  std::vector<char> padded(size_t(rows) * row_bytes), scale(size_t(rows) * scales);
  const Tensor from = source.from(first);
  if (there > 0) std::memcpy(padded.data(), from.data, size_t(there) * row_bytes);
  if (there > 0 && scales > 0) std::memcpy(scale.data(), from.scale, size_t(there) * scales);
  Tensor part = source;
  part.data = padded.data(), part.rows = rows, part.scale = scale.data();
  return packed(name, part, quantization_.head);
}

Tensor Weights::table(const std::string& name) {
  const Tensor source = checkpoint_.get(name, config_.vocab_size, config_.hidden_size);
  check_range(name, source, dtype_);
  Tensor out = arena_.tensor(source.rows, source.cols, dtype_);
  const size_t row_bytes = size_t(source.cols) * size_of(dtype_);
  if (source.dtype == dtype_) {
    backend_.upload(out.data, source.data, size_t(source.rows) * row_bytes);
    return out;
  }
  constexpr int64_t kRows = 2048;  // converted at a time
  std::vector<char> rows(size_t(std::min(kRows, source.rows)) * row_bytes);
  for (int64_t r = 0; r < source.rows; r += kRows) {
    const Tensor from = source.from(r).first(std::min(kRows, source.rows - r));
    convert(rows.data(), from, dtype_);
    backend_.upload(out.from(r).data, rows.data(), size_t(from.rows) * row_bytes);
  }
  return out;
}

Layer Weights::layer(int32_t index) {
  const std::string p = concat("gpt_neox.layers.", index, ".");
  const int64_t h = config_.hidden_size, f = config_.intermediate_size;
  Layer l;
  l.ln1 = norm(p + "input_layernorm");
  l.ln2 = norm(p + "post_attention_layernorm");
  l.qkv.weight = matrix(p + "attention.query_key_value.weight", 3 * h, h, Cut::rows, quantization_.layers);
  l.out.weight = matrix(p + "attention.dense.weight", h, h, Cut::cols, quantization_.layers);
  l.up = {.weight = matrix(p + "mlp.dense_h_to_4h.weight", f, h, Cut::rows, quantization_.layers),
          .bias = bias(p + "mlp.dense_h_to_4h.bias", f)};
  l.down.weight = matrix(p + "mlp.dense_4h_to_h.weight", h, f, Cut::cols, quantization_.layers);
  const std::string out_bias = p + "attention.dense.bias", down_bias = p + "mlp.dense_4h_to_h.bias";
  if (config_.attention_bias) l.qkv.bias = bias(p + "attention.query_key_value.bias", 3 * h);
  if (!config_.use_parallel_residual) {
    if (config_.attention_bias) l.out_bias = vector(out_bias, h);
    l.down_bias = vector(down_bias, h);
  } else {
    l.sum_bias = config_.attention_bias ? sum(out_bias, down_bias) : vector(down_bias, h);
  }
  return l;
}

/// As HuggingFace computes it, in float32: inv_freq = 1 / base^(2 i / dim), angle = position * inv_freq.
Rope Weights::make_rope() {
  const int32_t half = config_.rotary_half(), positions = config_.max_position_embeddings;
  std::vector<float> table(size_t(positions) * 2 * half);
  for (int32_t i = 0; i < half; i++) {
    const float exponent = float(2 * i) / float(config_.rotary_dim);
    const float frequency = 1.f / float(std::pow(config_.rotary_base, double(exponent)));
    for (int32_t p = 0; p < positions; p++) {
      const float angle = float(p) * frequency;
      table[size_t(p) * 2 * half + i] = float(std::cos(double(angle)));
      table[size_t(p) * 2 * half + half + i] = float(std::sin(double(angle)));
    }
  }
  const size_t bytes = table.size() * sizeof(float);
  if (bytes == 0) return {};
  float* data = static_cast<float*>(arena_.allocate(bytes));
  backend_.upload(data, table.data(), bytes);
  return {.cos_sin = data, .half = half};
}

void Weights::warn_of_the_rest(std::vector<std::string>& warnings) const {
  std::set<std::string> known{"gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias",
                              "embed_out.weight", "lm_head.weight"};
  for (const char* head : {"embed_out.weight", "lm_head.weight"})
    for (const char* part : {"_packed", "_scale"}) known.insert(std::string(head) + part);
  for (int32_t i = 0; i < config_.num_hidden_layers; i++) {
    const std::string p = concat("gpt_neox.layers.", i, ".");
    for (const char* part : {"input_layernorm", "post_attention_layernorm", "attention.query_key_value", "attention.dense",
                             "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"})
      for (const char* kind : {".weight", ".bias", ".weight_packed", ".weight_scale"}) known.insert(p + part + kind);
    // Buffers that old versions of transformers stored, recomputed here.
    for (const char* buffer : {"attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"}) known.insert(p + buffer);
  }
  std::string rest;
  int count = 0;
  for (const std::string& name : checkpoint_.names())
    if (!known.contains(name) && ++count <= 5) rest += (rest.empty() ? "" : ", ") + name;
  if (count)
    warnings.push_back(
        concat("the checkpoint has ", count, " tensors that a GPT-NeoX model does not use: ", rest, count > 5 ? ", ..." : ""));
}

}  // namespace neox
