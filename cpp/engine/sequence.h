// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/beam.h"
#include "engine/block_pool.h"
#include "engine/rules.h"
#include "neox/engine.h"

namespace neox {

struct BeamGroup;

/// One sample of one request on its way: host state only. The device holds nothing of it but the pages in `table`.
struct Sequence {
  uint64_t request_id = 0;
  int32_t index = 0;  // of the sample within its request
  int32_t forks = 0;  // samples of the request that will branch off where the prompt ends
  SamplingParams params;
  Processors processors;
  float top_p = 1;  // of the next draw
  uint64_t seed = 0;
  std::vector<int32_t> tokens;  // the prompt, virtual tokens and all, then what was generated; the last may be -1 - k: sample k of a step
                                // that is still running
  int32_t prompt_length = 0;
  int32_t max_length = 0;   // tokens at most, prompt included
  int32_t computed = 0;     // positions whose k and v are in the pages, or will be when the steps that are planned have run
  int32_t preemptions = 0;  // what was planned before the last one says nothing of the pages any more
  int32_t scored = 0;       // prompt tokens before this one need no log-prob, or have it
  BlockTable table;
  int32_t prefix = -1, prefix_length = 0;            // the pinned pages that it begins with, and their positions; -1 = none
  int32_t soft_begin = 0, soft_end = 0;              // positions whose embeddings the request brought
  std::shared_ptr<const std::vector<float>> embeds;  // [soft_end - soft_begin, hidden]
  int64_t root = 0;                                  // names what stands before its tokens, and those embeddings; see BlockTable
  std::vector<TokenLogprob> prompt_scores;
  std::string held;             // text that may be the beginning of a stop string or of a character
  float* logits_out = nullptr;  // forward: [length, vocab], and nothing is sampled
  int64_t* left = nullptr;      // forward: how many of the call's sequences are not done
  FinishReason finish = FinishReason::none;
  std::shared_ptr<BeamGroup> group;                           // of a beam search: the sequence that has the prompt, and each beam
  float sum = 0;                                              // of a beam: its tokens' scores
  std::vector<std::shared_ptr<const TokenLogprob>> logprobs;  // of a beam's tokens

  int32_t length() const { return int32_t(tokens.size()); }
  int32_t generated() const { return length() - prompt_length; }
  int32_t rows() const { return params.beam_width; }  // that a step has of it at most, but for a prompt's
  bool knows_all() const { return tokens.back() >= 0; }
  /// Positions that a step can compute; a last token that ends the sequence is not worth it.
  int32_t to_compute() const { return generated() > 0 && length() >= max_length ? 0 : length() - computed; }
  /// Whether its next draw depends on the last token, so that no step with it is planned ahead.
  bool needs_tokens() const { return group || processors.need_tokens() || params.top_p_decay < 1; }
  /// How many of these positions have an embedding that the request brought.
  int32_t soft_rows(int32_t start, int32_t count) const {
    return std::max(0, std::min(start + count, soft_end) - std::max(start, soft_begin));
  }
  bool scores_prompt() const { return params.prompt_logprobs >= 0 && scored < prompt_length; }
};

/// The beams of a request. The scheduler knows the one sequence that has the prompt; it stands for all, moves and is preempted with all.
struct BeamGroup {
  BeamSearch search;
  std::weak_ptr<Sequence> leader;
  std::vector<std::shared_ptr<Sequence>> beams;  // none until the prompt is computed
  bool flying = false;                           // a step that asks for its candidates is on its way
};

}  // namespace neox
