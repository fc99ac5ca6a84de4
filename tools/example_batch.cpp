// SPDX-License-Identifier: Apache-2.0
#include "example_batch.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>

#include "base/check.h"
#include "base/token_csv.h"

namespace neox {
namespace {

constexpr size_t kMostIds = std::numeric_limits<int32_t>::max();  // in `out`

void check_ids(const std::vector<int32_t>& ids, const std::string& file, size_t line, int32_t vocab) {
  for (int32_t id : ids) require(id < vocab, file, ":", line, ": expected ids below the vocabulary's ", vocab, ", found ", id);
}

/// A line of start_ids, of which ids from prompt_learning_start_id on are virtual tokens where its task has some.
void check_line(const std::vector<int32_t>& ids, const std::string& file, size_t line, const TaskInfo* task, int32_t new_tokens,
                const EngineInfo& info) {
  const int32_t length = task ? task->length : 0, start = info.prompt_learning_start_id;
  const bool tuning = length > 0 && task->type == PromptType::tuning;
  if (!tuning) check_ids(ids, file, line, info.vocab);
  for (int32_t id : ids)
    require(!tuning || id < start + length, file, ":", line, ": expected ids below ", start + length, ", where task ", task->name,
            "'s virtual tokens end, found ", id);
  const bool placed = tuning && std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return id >= start; });
  const int64_t positions = int64_t(ids.size()) + (placed ? 0 : length);
  require(positions + new_tokens <= info.max_model_len, file, ":", line, ": ", positions, " ids and request_output_len=", new_tokens,
          " new ones are more than the ", info.max_model_len, " positions of the model");
}

/// Memory of the machine, where that is what the engine allocates from.
void print_memory() {
  std::ifstream file("/proc/meminfo");
  double free = 0, total = 0;  // KiB
  for (std::string name, rest; file >> name; std::getline(file, rest)) {
    if (name == "MemTotal:") file >> total;
    if (name == "MemAvailable:") file >> free;
  }
  constexpr double kGiB = 1024 * 1024;
  std::printf("%-20s: free: %5.2f GB, total: %5.2f GB, used: %5.2f GB\n", "after allocation", free / kGiB, total / kGiB,
              (total - free) / kGiB);
}

}  // namespace

Input read_input(const Job& job) {
  Input input{.lines = read_token_csv(job.start_ids)};
  if (!job.bad_words.empty()) input.bad_words = read_phrase_csv(job.bad_words);
  if (!job.stop_words.empty()) input.stop_words = read_phrase_csv(job.stop_words);
  for (const auto& ids : input.lines) input.longest = std::max(input.longest, ids.size());
  return input;
}

Batch make_batch(const Ini& ini, Job& job, const Input& input, const EngineInfo& info) {
  Batch batch{.sampling = job.sampling, .end_id = job.end_id};
  const size_t lines = input.lines.size();
  const size_t rows = job.batch_size == 0 ? lines : size_t(job.batch_size);
  const int32_t new_tokens = job.sampling.max_tokens;
  const auto task_of = [&](size_t row) { return info.tasks.empty() ? nullptr : &info.tasks[row % info.tasks.size()]; };
  for (size_t i = 0; i < std::min(lines, rows); ++i) check_line(input.lines[i], job.start_ids, i + 1, task_of(i), new_tokens, info);
  for (size_t i = rows; i < lines; ++i) check_ids(input.lines[i], job.start_ids, i + 1, info.vocab);
  for (const auto& phrase : input.bad_words) check_ids(phrase, job.bad_words, 1, info.vocab);
  for (const auto& phrase : input.stop_words) check_ids(phrase, job.stop_words, 1, info.vocab);
  batch.sampling.bad_words_ids = input.bad_words;
  batch.sampling.stop_phrases = input.stop_words;

  batch.width = input.longest + size_t(new_tokens);
  require(rows * size_t(job.sampling.n) <= kMostIds / batch.width, ini.file(), ": request_batch_size=", rows, " rows of ", job.sampling.n,
          " beams and ", batch.width, " ids are more than ", kMostIds);
  if (lines < rows)
    job.warnings.push_back(concat(job.start_ids, " has ", lines, " lines and request_batch_size is ", rows, ": the other rows start from ",
                                  input.longest, " times end_id (", job.end_id, ")"));
  batch.prompts = input.lines;
  batch.prompts.resize(rows, std::vector<int32_t>(input.longest, job.end_id));
  batch.shown = batch.prompts;
  for (size_t i = 0; i < rows; ++i) {
    const TaskInfo* const task = task_of(i);  // FasterTransformer's: the tasks in turn
    batch.tasks.push_back(task ? task->name : "");
    if (task && task->length > 0 && task->type == PromptType::tuning)
      std::erase_if(batch.shown[i], [&](int32_t id) { return id >= info.prompt_learning_start_id; });
  }
  return batch;
}

Rows generate(Engine& engine, const Batch& batch) {
  const auto beams = size_t(batch.sampling.n);
  Rows rows;
  std::map<uint64_t, size_t> first_row;
  for (size_t i = 0; i < batch.prompts.size(); ++i) {
    first_row[engine.submit({.ids = batch.prompts[i], .task = batch.tasks[i]}, batch.sampling)] = rows.size();
    rows.insert(rows.end(), beams, batch.shown[i]);
  }
  while (engine.has_work()) {
    for (const Delta& delta : engine.step()) {
      const size_t first = first_row.at(delta.request_id);
      if (delta.finish == FinishReason::error) fail(ErrorKind::numerical, "request ", first / beams + 1, ": ", delta.error);
      auto& row = rows[first + size_t(delta.index)];
      row.insert(row.end(), delta.token_ids.begin(), delta.token_ids.end());
    }
  }
  for (auto& row : rows) row.resize(batch.width, batch.end_id);
  return rows;
}

void write_out(const Rows& rows) {
  std::ofstream file("out");
  for (const auto& row : rows) {
    for (int32_t id : row) file << id << ' ';
    file << '\n';
  }
  file.close();
  if (!file) fail(ErrorKind::runtime, "out: cannot be written in the current directory");
}

void print_start(const EngineInfo& info) {
  if (info.rank == 0) std::printf("Total ranks: %d.\n", info.world_size);
  std::printf("Device %s (%s)\nP%d is running with %s #%d.\n", info.device.c_str(), info.device_detail.c_str(), info.rank,
              info.device == "cuda" ? "GPU" : "CPU", info.device == "cuda" ? 0 : info.rank);
  if (info.device == "cpu") print_memory();
}

void print_result(const Rows& rows) {
  const size_t width = rows.empty() ? 0 : rows[0].size();
  std::printf("Writing %zu elements\n", rows.size() * width);
  size_t zeros = 0;
  for (size_t i = 0; i < rows.size() * width; ++i) {
    const int32_t id = rows[i / width][i % width];
    zeros += id == 0;
    if (i < 10) std::printf("%5d ", id);
    if (i < 10 && (i + 1) % width == 0) std::printf("\n");
  }
  std::printf("\nzeroCount = %zu\n", zeros);
}

void print_time(const EngineInfo& info, const Batch& batch, double milliseconds) {
  std::printf(
      "[INFO] request_batch_size %zu beam_width %d head_num %d size_per_head %d total_output_len %zu decoder_layers %d "
      "vocab_size %d FT-CPP-decoding-beamsearch-time %.2f ms\n",
      batch.prompts.size(), batch.sampling.beam_width, info.heads, info.head_dim, batch.width, info.layers, info.vocab, milliseconds);
}

}  // namespace neox
