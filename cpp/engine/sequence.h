// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "neox/engine.h"

namespace neox {

/// One request on its way: host state only. The device holds nothing of it but the pages in `blocks`.
struct Sequence {
  uint64_t request_id = 0;
  SamplingParams params;
  uint64_t seed = 0;
  std::vector<int32_t> tokens;  // the prompt, then what was generated
  int32_t prompt_length = 0;
  int32_t max_length = 0;       // tokens at most, prompt included
  int32_t computed = 0;         // positions whose k and v are in the pages
  std::vector<int32_t> blocks;  // page table
  std::string pending;          // bytes that are not yet whole characters
  float* logits_out = nullptr;  // forward: [length, vocab], and nothing is sampled
  int64_t* left = nullptr;      // forward: how many of the call's sequences are not done
  FinishReason finish = FinishReason::none;

  int32_t length() const { return int32_t(tokens.size()); }
  int32_t generated() const { return length() - prompt_length; }
};

}  // namespace neox
