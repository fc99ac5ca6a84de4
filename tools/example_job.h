// SPDX-License-Identifier: Apache-2.0
// What FasterTransformer's ini asks gptneox_example for.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/ini.h"
#include "neox/engine.h"

namespace neox {

struct Job {
  std::string model_name;   // the ini's section of the model
  EngineConfig engine;      // model is empty where the weights are random and of the ini's shape
  SamplingParams sampling;  // without the phrases, which are in files
  int32_t batch_size = 0;   // 0 = the lines of start_ids
  int32_t end_id = 0;
  int32_t prompt_type = 0;                       // FasterTransformer's number: 0 = none, 2 = prefixes, 3 = p/prompt-tuning
  std::string start_ids, bad_words, stop_words;  // files; the last two may be empty: none
  std::vector<std::string> notes, warnings;      // for people: what was chosen for them, and what does nothing
};

/// Every key is read, or refused with an Error that names file, line, section, key, and what was expected and found. Reads no file but asks
/// which are there: a relative path is looked for in the ini's folder, then, as FasterTransformer did, in the current directory.
/// world: MPI ranks that run the program, 1 without mpirun.
Job read_job(const Ini& ini, int world);

/// What the ini says of the model must be what was loaded: FasterTransformer trusted it and read the files to that shape. Returns warnings.
std::vector<std::string> check_model(const Ini& ini, const Job& job, const EngineInfo& info);

/// A config.json of the shape in the ini's model section, for random weights, with room for so many positions.
std::string config_json(const Ini& ini, const Job& job, int64_t positions);

}  // namespace neox
