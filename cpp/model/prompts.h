// SPDX-License-Identifier: Apache-2.0
// Learned prompts as an engine has them in memory: checked, and read from FasterTransformer's files.
#pragma once
#include <vector>

#include "model/config.h"
#include "neox/engine.h"

namespace neox {

/// Makes each task's values and length whole. Throws Error(invalid) or Error(not_found) that name the task or its file.
void read_prompts(PromptLearning& prompts, const ModelConfig& config);

std::vector<int32_t> prefixes_of(const PromptLearning& prompts);  // positions of the prefix tasks that have any, in order
int32_t table_rows(const PromptLearning& prompts);                // of all tuning tasks' tables, one after another

}  // namespace neox
