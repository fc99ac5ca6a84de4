// SPDX-License-Identifier: Apache-2.0
// The prompts of gptneox_example, and what becomes of them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "example_job.h"
#include "neox/engine.h"

namespace neox {

using Rows = std::vector<std::vector<int32_t>>;

/// What the csv files hold.
struct Input {
  Rows lines, bad_words, stop_words;
  size_t longest = 0;  // of the lines
};

/// Reads the job's files. Throws Error that names file, line and field.
Input read_input(const Job& job);

struct Batch {
  Rows prompts;
  std::vector<std::string> tasks;  // of each prompt; empty = none
  Rows shown;                      // the prompts as `out` has them: without virtual tokens
  size_t width = 0;  // ids in a line of `out`: the longest line of start_ids, whether the batch has it or not, and the new tokens
  SamplingParams sampling;
  int32_t end_id = 0;
};

/// The prompts brought to the batch's size, rows beyond the file being end_id alone, as FasterTransformer's were. Throws Error where an id
/// is past the vocabulary or a row past the model's positions; says in job.warnings what was filled up.
Batch make_batch(const Ini& ini, Job& job, const Input& input, const EngineInfo& info);

/// Lines of `out`, for each prompt one or, of a beam search, beam_width: the prompt, what was generated, and end_id up to the width.
Rows generate(Engine& engine, const Batch& batch);

/// FasterTransformer's file, in the current directory: each id with a space behind it, one row a line.
void write_out(const Rows& rows);

/// FasterTransformer's lines on stdout.
void print_start(const EngineInfo& info);
void print_result(const Rows& rows);                                               // the first ten ids, and how many are zero
void print_time(const EngineInfo& info, const Batch& batch, double milliseconds);  // scripts take the time from the last line's field 17

}  // namespace neox
