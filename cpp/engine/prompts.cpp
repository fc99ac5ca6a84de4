// SPDX-License-Identifier: Apache-2.0
// What a prompt has besides tokens: a task's virtual tokens, and embeddings of its own.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "engine/engine_impl.h"

namespace neox {

const PromptTask* Engine::Impl::task_of(const Prompt& prompt) const {
  if (prompt.task.empty()) return nullptr;
  const auto& tasks = config.prompt_learning.tasks;
  std::string names;
  for (const PromptTask& task : tasks) {
    if (task.name == prompt.task) return &task;
    names += (names.empty() ? "'" : ", '") + task.name + "'";
  }
  fail(ErrorKind::invalid, "task is '", prompt.task, "', expected ",
       tasks.empty()       ? "none: this engine has no prompt_learning"
       : tasks.size() == 1 ? names
                           : "one of " + names);
}

/// The prompt's ids as a sequence has them: those of a tuning task's virtual tokens are numbers of its rows.
std::vector<int32_t> Engine::Impl::read_ids(const Prompt& prompt, const PromptTask* task) const {
  const int32_t vocab = executor().model().vocab_size;
  const bool tuning = task && task->type == PromptType::tuning && task->length > 0;
  const int32_t start = tuning ? config.prompt_learning.start_id : vocab, rows = tuning ? task->length : 0;
  std::vector<int32_t> tokens(prompt.ids.begin(), prompt.ids.end());
  for (size_t i = 0; i < tokens.size(); i++) {
    const int64_t row = int64_t(tokens[i]) - start;
    require(tokens[i] >= 0 && row < rows, "the prompt's token ", i, " is ", tokens[i], ", expected 0 to ", start - 1,
            tuning ? concat(", or ", start, " to ", int64_t(start) + rows - 1, ", the virtual tokens of task '", task->name, "'") : "");
    if (row >= 0) tokens[i] = kVirtual + 1 + int32_t(row);
  }
  return tokens;
}

void Engine::Impl::check_embeds(std::span<const float> embeds) const {
  const auto hidden = size_t(executor().model().hidden_size);
  require(embeds.size() % hidden == 0, "prompt_embeds has ", embeds.size(), " numbers, expected rows of the hidden size ", hidden);
  const auto bad = size_t(std::find_if(embeds.begin(), embeds.end(), [](float x) { return !std::isfinite(x); }) - embeds.begin());
  if (bad < embeds.size())
    fail(ErrorKind::invalid, "prompt_embeds holds ", embeds[bad], " in row ", bad / hidden, ", column ", bad % hidden,
         ", expected finite numbers");
}

/// Fills a sequence's tokens: what the task puts in front, marks for embeddings, and the ids.
void Engine::Impl::lay_out(Sequence& s, const Prompt& prompt) const {
  const PromptTask* const task = task_of(prompt);
  std::vector<int32_t> ids = read_ids(prompt, task);
  check_embeds(prompt.embeds);
  const auto& tasks = config.prompt_learning.tasks;
  int32_t first_row = 0;  // of the task's table among those of all tasks
  for (const PromptTask& other : tasks) {
    if (&other == task) break;
    if (other.type == PromptType::prefix) s.prefix += other.length > 0;
    else first_row += other.length;
  }
  if (task && task->type == PromptType::prefix && task->length > 0) {
    s.prefix++, s.prefix_length = task->length;
    s.tokens.assign(size_t(task->length), kVirtual);
    s.root = -1 - s.prefix;
  } else {
    s.prefix = -1;
  }
  if (task && task->type == PromptType::tuning) {
    for (int32_t& id : ids) id += is_virtual(id) ? first_row : 0;
    if (std::none_of(ids.begin(), ids.end(), is_virtual))  // else they stand where the ids say
      for (int32_t row = 0; row < task->length; row++) s.tokens.push_back(kVirtual + 1 + first_row + row);
  }
  s.soft_begin = s.length();
  s.soft_end = s.soft_begin + int32_t(prompt.embeds.size() / size_t(executor().model().hidden_size));
  s.tokens.resize(size_t(s.soft_end), kVirtual);
  s.tokens.insert(s.tokens.end(), ids.begin(), ids.end());
  s.prompt_length = s.length();
  require(s.prompt_length > s.prefix_length, "the prompt is empty, expected at least one token");
}

void Engine::Impl::keep_embeds(Sequence& s, const Prompt& prompt) {
  const std::lock_guard lock(inbox);
  const SoftPrompts::Kept kept = soft_prompts.keep(prompt.embeds, s.root);
  s.embeds = kept.rows, s.root = kept.name;
}

}  // namespace neox
