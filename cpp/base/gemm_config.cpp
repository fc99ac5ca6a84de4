// SPDX-License-Identifier: Apache-2.0
#include "base/gemm_config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

constexpr size_t kMostBytes = size_t(16) << 20;
constexpr std::string_view kFormat = "neoxnative gemm_config 1";
constexpr std::array kColumns{"batch_size*beam_width",
                              "seq_len",
                              "head_num",
                              "size_per_head",
                              "data_type",
                              "###",
                              "batchCount",
                              "n",
                              "m",
                              "k",
                              "algoId",
                              "customOption",
                              "tile",
                              "numSplitsK",
                              "swizzle",
                              "reductionScheme",
                              "workspaceSize",
                              "stages",
                              "inner_shape_id",
                              "cluster_shape_id",
                              "exec_time"};
constexpr size_t kMark = 5, kTime = kColumns.size() - 1;

std::string digest(std::string_view bytes) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325;
  for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(h));
  return hex;
}

/// The value of `name` in "...; name=value; ...", or nothing.
std::string_view field(std::string_view header, std::string_view name) {
  const std::string mark = concat("; ", name, "=");
  const size_t at = header.find(mark);
  if (at == std::string_view::npos) return {};
  header.remove_prefix(at + mark.size());
  return header.substr(0, header.find(';'));
}

template <class T> bool read_number(std::string_view word, T& value) {
  const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  return error == std::errc() && stop == word.data() + word.size();
}

using Words = std::array<std::string_view, kColumns.size()>;

Words split(std::string_view line, const std::string& where) {
  Words words;
  size_t count = 0;
  for (line = trimmed(line); !line.empty(); line = trimmed(line)) {
    size_t end = 0;
    while (end < line.size() && !is_space(line[end])) end++;
    if (count < words.size()) words[count] = line.substr(0, end);
    count++, line.remove_prefix(end);
  }
  require(count == words.size(), where, "expected ", words.size(), " columns, found ", count);
  return words;
}

void parse_line(std::string_view text, const std::string& where, std::map<GemmKey, GemmLine>& lines) {
  const Words words = split(text, where);
  std::array<int32_t, kTime> v{};
  for (size_t i = 0; i < kTime; i++) {
    const bool good = i == kMark ? words[i] == kColumns[i] : read_number(words[i], v[i]);
    require(good, where, "column ", kColumns[i], ": expected ", i == kMark ? "###" : "an integer", ", found ", quoted(words[i]));
  }
  GemmLine line{.batch = v[0],
                .length = v[1],
                .heads = v[2],
                .head_dim = v[3],
                .choice = {.algorithm = v[10],
                           .custom_option = v[11],
                           .tile = v[12],
                           .split_k = v[13],
                           .swizzle = v[14],
                           .reduction = v[15],
                           .workspace = v[16],
                           .stages = v[17],
                           .inner_shape = v[18],
                           .cluster_shape = v[19]}};
  require(read_number(words[kTime], line.milliseconds) && std::isfinite(line.milliseconds), where,
          "column exec_time: expected a number, found ", quoted(words[kTime]));
  require(v[4] >= 0 && v[4] <= 2, where, "column data_type: expected 0, 1 or 2, found ", v[4]);
  require(v[6] == 1, where, "column batchCount: expected 1, found ", v[6]);
  for (const size_t i : {7, 8, 9}) require(v[i] >= 1, where, "column ", kColumns[i], ": expected at least 1, found ", v[i]);
  require(v[10] >= GemmChoice::kOwn, where, "column algoId: expected at least ", GemmChoice::kOwn, ", found ", v[10]);
  require(v[10] >= 0 || line.choice == GemmChoice{.algorithm = v[10]}, where, "expected -1 in the columns after an algoId of ", v[10]);
  lines.insert_or_assign({.type = DType(v[4]), .n = v[7], .k = v[9], .rows = v[8]}, line);
}

}  // namespace

GemmConfig GemmConfig::parse(std::string_view text, const std::string& name) {
  const size_t end = text.find('\n');
  const std::string_view header = text.substr(0, end);
  require(header.starts_with(kFormat) && end != std::string_view::npos, name, ": expected a first line that begins with ", kFormat,
          ", found ", quoted(header), ": have gpt_gemm make the file again");
  text.remove_prefix(end + 1);
  const std::string found = digest(text), expected(field(header, "digest"));
  require(found == expected, name, ": the lines have digest ", found, ", the first line says ", quoted(expected),
          ": the file was cut short or edited");
  GemmConfig config{.place = {.gpu = std::string(field(header, "gpu")),
                              .driver = std::string(field(header, "driver")),
                              .cublaslt = std::string(field(header, "cublaslt"))},
                    .lines = {}};
  for (int number = 2; !text.empty(); number++) {
    const size_t length = text.find('\n');
    require(length != std::string_view::npos, name, ": line ", number, " has no end");
    parse_line(text.substr(0, length), concat(name, ": line ", number, ": "), config.lines);
    text.remove_prefix(length + 1);
  }
  require(!config.lines.empty(), name, ": expected lines after the first, found none");
  return config;
}

GemmConfig GemmConfig::read(const std::string& path) { return parse(read_text_file(path, kMostBytes), path); }

std::string GemmConfig::text() const {
  std::string body;
  for (const auto& [key, line] : lines) {
    const GemmChoice& c = line.choice;
    char time[32];
    std::snprintf(time, sizeof time, "%.6f", line.milliseconds);
    body += concat(line.batch, ' ', line.length, ' ', line.heads, ' ', line.head_dim, ' ', int(key.type), " ### 1 ", key.n, ' ', key.rows,
                   ' ', key.k, ' ', c.algorithm, ' ', c.custom_option, ' ', c.tile, ' ', c.split_k, ' ', c.swizzle, ' ', c.reduction, ' ',
                   c.workspace, ' ', c.stages, ' ', c.inner_shape, ' ', c.cluster_shape, ' ', time, '\n');
  }
  std::string columns;
  for (const char* column : kColumns) columns += concat(' ', column);
  return concat(kFormat, "; gpu=", place.gpu, "; driver=", place.driver, "; cublaslt=", place.cublaslt, "; digest=", digest(body),
                "; columns:", columns, '\n', body);
}

void GemmConfig::require_place(const GemmPlace& here, const std::string& name) const {
  const auto described = [](const GemmPlace& p) { return concat(p.gpu, ", driver ", p.driver, ", cuBLASLt ", p.cublaslt); };
  require(place == here, name, ": expected choices made on this machine, ", described(here), ", found those of ",
          printable(described(place), 200), ": have gpt_gemm make the file again");
}

const GemmLine* GemmConfig::find(DType type, int64_t n, int64_t k, int64_t rows) const {
  if (std::max({n, k, rows}) > INT32_MAX) return nullptr;
  const auto at = lines.lower_bound({.type = type, .n = int32_t(n), .k = int32_t(k), .rows = int32_t(rows)});
  if (at == lines.end() || at->first.type != type || at->first.n != n || at->first.k != k) return nullptr;
  return &at->second;
}

}  // namespace neox
