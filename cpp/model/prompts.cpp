// SPDX-License-Identifier: Apache-2.0
#include "model/prompts.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/check.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/ini.h"
#include "model/ft_config.h"

namespace neox {
namespace {

constexpr int32_t kMaxVirtualTokens = 1 << 20;  // of all tables together

const char* name_of(PromptType type) { return type == PromptType::prefix ? "prefix" : "tuning"; }

/// Numbers of one virtual token.
int64_t numbers_per_token(const PromptTask& t, const ModelConfig& c) {
  return (t.type == PromptType::prefix ? 2 * int64_t(c.num_hidden_layers) : 1) * c.hidden_size;
}

MappedFile open_exactly(const std::string& path, int64_t bytes, const PromptTask& t) {
  MappedFile file(path);
  require(int64_t(file.size()) == bytes, path, " has ", file.size(), " bytes, expected ", bytes, ": ", t.length,
          " virtual tokens of task '", t.name, "' in ", t.file_dtype);
  return file;
}

void read_table(PromptTask& t, const ModelConfig& c) {
  const DType dtype = dtype_named(t.file_dtype, "file_dtype");
  const int64_t count = t.length * numbers_per_token(t, c);
  const MappedFile file = open_exactly(concat(t.folder, "/model.prompt_table.", t.name, ".weight.bin"), count * int64_t(size_of(dtype)), t);
  t.values.resize(size_t(count));
  for (int64_t i = 0; i < count; i++) t.values[size_t(i)] = load_as_f32(file.data(), dtype, i);
}

/// Rank r's file: [layers, 2, heads / ranks, length, head_dim].
void read_prefix(PromptTask& t, const ModelConfig& c) {
  const DType dtype = dtype_named(t.file_dtype, "file_dtype");
  const auto path = [&](int64_t rank) { return concat(t.folder, "/model.prefix_prompt.", t.name, ".weight.", rank, ".bin"); };
  int64_t ranks = 1;
  while (file_exists(path(ranks))) ranks++;
  require(c.num_attention_heads % ranks == 0, path(0), " is one of ", ranks, " files, expected a number that divides the ",
          c.num_attention_heads, " heads");
  const int64_t count = t.length * numbers_per_token(t, c), slices = 2 * int64_t(c.num_hidden_layers), part = count / slices / ranks;
  t.values.resize(size_t(count));
  for (int64_t rank = 0; rank < ranks; rank++) {
    const MappedFile file = open_exactly(path(rank), count / ranks * int64_t(size_of(dtype)), t);
    for (int64_t slice = 0; slice < slices; slice++)
      for (int64_t i = 0; i < part; i++)
        t.values[size_t((slice * ranks + rank) * part + i)] = load_as_f32(file.data(), dtype, slice * part + i);
  }
}

void complete(PromptTask& t, const ModelConfig& c) {
  const std::string what = concat("the ", name_of(t.type), " prompt of task '", t.name, "'");
  require(t.length >= 0 && t.length <= kMaxVirtualTokens, what, " has length ", t.length, ", expected 0 to ", kMaxVirtualTokens);
  const int64_t each = numbers_per_token(t, c);
  if (t.values.empty() && t.length > 0) {
    require(!t.folder.empty(), what, " has length ", t.length, " but neither values nor a folder");
    if (t.type == PromptType::prefix) read_prefix(t, c);
    else read_table(t, c);
  } else if (!t.values.empty()) {
    const auto size = int64_t(t.values.size());
    require(size % each == 0 && (t.length == 0 || t.length * each == size) && size / each <= kMaxVirtualTokens, what, " has ", size,
            " numbers, expected ", each, " for each of ", t.length ? concat(t.length) : concat("at most ", kMaxVirtualTokens),
            " virtual tokens");
    t.length = int32_t(size / each);
  }
  const auto bad = std::find_if(t.values.begin(), t.values.end(), [](float x) { return !std::isfinite(x); });
  require(bad == t.values.end(), what, " holds NaN or infinity, at number ", bad - t.values.begin());
}

}  // namespace

void read_prompts(PromptLearning& prompts, const ModelConfig& config) {
  std::set<std::string> names;
  for (PromptTask& task : prompts.tasks) {
    require(!task.name.empty(), "a task of prompt_learning has no name");
    require(names.insert(task.name).second, "prompt_learning has two tasks of the name '", task.name, "'");
    complete(task, config);
  }
  if (prompts.start_id < 0) prompts.start_id = config.vocab_size;
  require(prompts.start_id <= config.vocab_size, "prompt_learning's start_id is ", prompts.start_id,
          ", expected at most the vocabulary's size ", config.vocab_size);
  int64_t rows = 0;
  for (const PromptTask& task : prompts.tasks) rows += task.type == PromptType::tuning ? task.length : 0;
  require(rows <= kMaxVirtualTokens, "the tuning tasks have ", rows, " virtual tokens together, expected at most ", kMaxVirtualTokens);
}

std::vector<int32_t> prefixes_of(const PromptLearning& prompts) {
  std::vector<int32_t> positions;
  for (const PromptTask& task : prompts.tasks)
    if (task.type == PromptType::prefix && task.length > 0) positions.push_back(task.length);
  return positions;
}

int32_t table_rows(const PromptLearning& prompts) {
  int32_t rows = 0;
  for (const PromptTask& task : prompts.tasks) rows += task.type == PromptType::tuning ? task.length : 0;
  return rows;
}

PromptLearning read_prompt_learning(const std::string& path, const std::string& named, const std::string& folder) {
  const Ini ini = Ini::read(path);
  const std::string section = named.empty() ? model_section(ini) : named;
  PromptLearning prompts;
  const int32_t type = ini.integer_or(section, "prompt_learning_type", 0), tasks = ini.integer_or(section, "num_tasks", 0);
  if (type < 0 || type > 3) ini.reject(section, "prompt_learning_type", "0 (none), 1 (soft), 2 (prefix) or 3 (p/prompt-tuning)");
  if (tasks < 0) ini.reject(section, "num_tasks", "0 or more");
  if (type < 2) return prompts;
  if (ini.has(section, "prompt_learning_start_id")) {
    prompts.start_id = ini.integer(section, "prompt_learning_start_id");
    if (prompts.start_id < 0) ini.reject(section, "prompt_learning_start_id", "an id, 0 or more");
  }
  const std::string config = folder + "/config.ini";
  const std::string dtype = file_exists(config) ? weight_data_type(Ini::read(config)) : "float32";
  for (int32_t k = 0; k < tasks; k++) {
    const std::string own = concat("task_", k), longer = concat(section, "_", own), in = ini.has(longer, "task_name") ? longer : own;
    PromptTask task{.name = ini.text(in, "task_name"), .type = type == 2 ? PromptType::prefix : PromptType::tuning};
    task.length = ini.integer_or(in, "prompt_length", 0);
    if (task.length < 0) ini.reject(in, "prompt_length", "0 or more");
    task.folder = folder;
    task.file_dtype = dtype;
    prompts.tasks.push_back(std::move(task));
  }
  return prompts;
}

}  // namespace neox
