// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <set>

#include "base/check.h"
#include "engine/step.h"
#include "neox/engine.h"

namespace neox {

static void check_phrases(const char* name, const std::vector<std::vector<int32_t>>& phrases) {
  for (const auto& phrase : phrases) {
    require(!phrase.empty(), name, " holds an empty list of ids");
    for (int32_t id : phrase) require(id >= 0, name, " holds ", id, ", expected ids of 0 or more");
  }
}

void SamplingParams::validate_edits() const {
  require(repetition_penalty > 0 && repetition_penalty <= 100, "repetition_penalty is ", repetition_penalty,
          ", expected more than 0 and at most 100");
  require(std::fabs(presence_penalty) <= 2, "presence_penalty is ", presence_penalty, ", expected -2 to 2");
  require(std::fabs(frequency_penalty) <= 2, "frequency_penalty is ", frequency_penalty, ", expected -2 to 2");
  std::set<int32_t> biased;
  for (const auto& [id, bias] : logit_bias) {
    require(id >= 0, "logit_bias has the id ", id, ", expected 0 or more");
    require(std::fabs(bias) <= 100, "logit_bias is ", bias, " for id ", id, ", expected -100 to 100");
    require(biased.insert(id).second, "logit_bias has the id ", id, " twice");
  }
  require(no_repeat_ngram_size >= 0, "no_repeat_ngram_size is ", no_repeat_ngram_size, ", expected 0 (none) or more");
  check_phrases("bad_words", bad_words_ids);
  for (const std::string& text : bad_words) require(!text.empty(), "bad_words holds an empty string");
  for (int32_t id : allowed_token_ids) require(id >= 0, "allowed_token_ids holds ", id, ", expected 0 or more");
}

void SamplingParams::validate_beams() const {
  require(beam_width >= 1 && beam_width <= kMaxBeamWidth, "beam_width is ", beam_width, ", expected 1 to ", kMaxBeamWidth);
  require(std::isfinite(length_penalty) && std::fabs(length_penalty) <= 100, "length_penalty is ", length_penalty,
          ", expected -100 to 100");
  require(std::isfinite(beam_search_diversity_rate), "beam_search_diversity_rate is ", beam_search_diversity_rate,
          ", expected a finite number");
  require(beam_width == 1 || n <= beam_width, "n is ", n, ", expected 1 to beam_width (", beam_width, ")");
  require(beam_width == 1 || max_tokens > 0, "beam_width is ", beam_width, " with max_tokens 0, expected 1");
}

void SamplingParams::validate() const {
  require(max_tokens >= 1 || (max_tokens == 0 && prompt_logprobs >= 0), "max_tokens is ", max_tokens,
          ", expected 1 or more, or 0 with prompt_logprobs");
  require(min_tokens >= 0 && min_tokens <= max_tokens, "min_tokens is ", min_tokens, ", expected 0 to max_tokens (", max_tokens, ")");
  require(std::isfinite(temperature) && (temperature == 0 || (temperature >= 0.001f && temperature <= 1000)), "temperature is ",
          temperature, ", expected 0 (greedy) or 0.001 to 1000");
  require(top_k >= 0, "top_k is ", top_k, ", expected 0 (all) or more");
  require(top_p > 0 && top_p <= 1, "top_p is ", top_p, ", expected more than 0 and at most 1");
  require(min_p >= 0 && min_p <= 1, "min_p is ", min_p, ", expected 0 to 1");
  const auto share = [](const char* name, float value) {
    require(value > 0 && value <= 1, name, " is ", value, ", expected more than 0 and at most 1");
  };
  share("typical_p", typical_p), share("top_p_decay", top_p_decay), share("top_p_min", top_p_min);
  require(top_p_reset_id >= -1, "top_p_reset_id is ", top_p_reset_id, ", expected an id, or -1 for none");
  validate_edits();
  validate_beams();
  require(stop_token_ids.size() <= size_t(kMaxEndIds), "stop_token_ids has ", stop_token_ids.size(), " ids, expected at most ", kMaxEndIds);
  check_phrases("stop", stop_phrases);
  for (const std::string& text : stop) require(!text.empty(), "stop holds an empty string");
  require(n >= 1 && n <= kMaxSamples, "n is ", n, ", expected 1 to ", kMaxSamples);
  require(first_index >= 0 && first_index <= INT32_MAX - n, "first_index is ", first_index, ", expected 0 to ", INT32_MAX - n);
  require(n == 1 || max_tokens > 0, "n is ", n, " with max_tokens 0, expected 1");
  require(logprobs >= -1, "logprobs is ", logprobs, ", expected -1 (none) or more");
  require(logprobs <= 0 || logprobs_mode == LogprobsMode::raw, "logprobs is ", logprobs,
          " with logprobs_mode processed, expected at most 0: other ids are told as the model has them");
  require(prompt_logprobs >= -1, "prompt_logprobs is ", prompt_logprobs, ", expected -1 (none) or more");
  require(prompt_logprobs_start >= 0, "prompt_logprobs_start is ", prompt_logprobs_start, ", expected 0 or more");
  for (int32_t id : stop_token_ids) require(id >= 0, "stop_token_ids holds ", id, ", expected 0 or more");
}

}  // namespace neox
