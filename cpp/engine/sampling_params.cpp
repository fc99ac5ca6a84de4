// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "base/check.h"
#include "engine/step.h"
#include "neox/engine.h"

namespace neox {

void SamplingParams::validate() const {
  require(max_tokens >= 1 || (max_tokens == 0 && prompt_logprobs >= 0), "max_tokens is ", max_tokens,
          ", expected 1 or more, or 0 with prompt_logprobs");
  require(min_tokens >= 0 && min_tokens <= max_tokens, "min_tokens is ", min_tokens, ", expected 0 to max_tokens (", max_tokens, ")");
  require(std::isfinite(temperature) && (temperature == 0 || (temperature >= 0.001f && temperature <= 1000)), "temperature is ",
          temperature, ", expected 0 (greedy) or 0.001 to 1000");
  require(top_k >= 0, "top_k is ", top_k, ", expected 0 (all) or more");
  require(top_p > 0 && top_p <= 1, "top_p is ", top_p, ", expected more than 0 and at most 1");
  require(min_p >= 0 && min_p <= 1, "min_p is ", min_p, ", expected 0 to 1");
  require(stop_token_ids.size() <= size_t(kMaxBansPerSeq) / 2, "stop_token_ids has ", stop_token_ids.size(), " ids, expected at most ",
          kMaxBansPerSeq / 2);
  for (const std::string& text : stop) require(!text.empty(), "stop holds an empty string");
  require(n >= 1 && n <= kMaxSamples, "n is ", n, ", expected 1 to ", kMaxSamples);
  require(n == 1 || max_tokens > 0, "n is ", n, " with max_tokens 0, expected 1");
  require(logprobs >= -1, "logprobs is ", logprobs, ", expected -1 (none) or more");
  require(prompt_logprobs >= -1, "prompt_logprobs is ", prompt_logprobs, ", expected -1 (none) or more");
  require(prompt_logprobs_start >= 0, "prompt_logprobs_start is ", prompt_logprobs_start, ", expected 0 or more");
  for (int32_t id : stop_token_ids) require(id >= 0, "stop_token_ids holds ", id, ", expected 0 or more");
}

}  // namespace neox
