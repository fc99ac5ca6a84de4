// SPDX-License-Identifier: Apache-2.0
// Learned prompts on their way to the device, while the engine loads.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "engine/executor.h"
#include "model/prompts.h"

namespace neox {

void Executor::load_tables(const PromptLearning& prompts) {
  if (!shard_.stage.first()) return;
  int64_t row = 0;
  for (const PromptTask& task : prompts.tasks) {
    if (task.type != PromptType::tuning || task.length == 0) continue;
    backend_->upload(virtual_tokens_.row(row), task.values.data(), task.values.size() * sizeof(float));
    row += task.length;
  }
  backend_->synchronize();
}

void Executor::load_prefixes(const PromptLearning& prompts) {
  const auto tables = BlockPool(num_blocks_, limits_.block_size, false).pin(prefixes_of(prompts));  // of the pages that a Scheduler pins
  auto table = tables.begin();
  for (const PromptTask& task : prompts.tasks)
    if (task.type == PromptType::prefix && task.length > 0) write_prefix(task, *table++);
}

/// Attention stores what it is given as k and v: with no rotary dimensions, as it is.
void Executor::write_prefix(const PromptTask& task, const BlockTable& table) {
  const int64_t heads = model_config_.num_attention_heads, dim = model_config_.head_dim(), own = shard_.share(heads);
  const auto sequence = std::make_shared<Sequence>();
  sequence->tokens.resize(size_t(task.length));
  sequence->table = table;
  const auto most = std::max_element(task.values.begin(), task.values.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
  require(activations_.qkv.dtype != DType::f16 || std::abs(*most) <= 65504, "the prefix prompt of task '", task.name, "' holds ", *most,
          ", expected at most 65504 for float16: use bfloat16");
  StepLimits exact = limits_;
  exact.recorded.clear();
  StepBuffer buffer(exact);
  for (int32_t start = 0, count; start < task.length; start += count) {
    count = std::min(exact.tokens, task.length - start);
    StepPlan plan{.copies = {}, .chunks = {}, .tokens = count};
    plan.chunks.push_back(
        {.sequence = sequence, .preemptions = 0, .start = start, .count = count, .first_score = 0, .scores = 0, .draws = 0});
    buffer.fill(plan, 0);
    upload(buffer);
    const Activations a = activations_.first(count);
    std::vector<char> rows(size_t(count * a.qkv.ld) * size_of(a.qkv.dtype));  // q stays 0
    for (int32_t layer = shard_.stage.first_layer; layer < shard_.stage.last_layer; layer++) {
      for (int64_t part = 0; part < 2; part++)
        for (int64_t head = 0; head < own; head++)
          for (int64_t p = 0; p < count; p++) {
            const float* from =
                task.values.data() + (((layer * 2 + part) * heads + shard_.rank * own + head) * task.length + start + p) * dim;
            for (int64_t d = 0; d < dim; d++)
              store_from_f32(rows.data(), a.qkv.dtype, p * a.qkv.ld + (head * 3 + 1 + part) * dim + d, from[d]);
          }
      backend_->upload(a.qkv.data, rows.data(), rows.size());
      backend_->attention({.out = a.att,
                           .qkv = a.qkv,
                           .kv = kv_->layers()[size_t(layer - shard_.stage.first_layer)],
                           .step = buffer.step(step_buffer_.data<const int32_t>()),
                           .rope = {.cos_sin = weights_->rope.cos_sin, .half = 0},
                           .scale = 1.f});
    }
  }
  backend_->synchronize();
}

}  // namespace neox
