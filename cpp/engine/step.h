// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "backend/args.h"
#include "engine/sequence.h"

namespace neox {

/// What one step computes of one sequence.
struct Chunk {
  std::shared_ptr<Sequence> sequence;
  int32_t preemptions;          // of the sequence when this was planned
  int32_t start, count;         // positions [start, start + count)
  int32_t first_score, scores;  // prompt tokens whose log-probs this chunk gives
  int32_t draws;  // new tokens, at position start + count: one, or one for each sample where a prompt ends; 0 in the middle of a prompt
  int32_t samples() const { return scores + draws; }
};
struct StepPlan {
  std::vector<std::pair<int32_t, int32_t>> copies;  // pages to copy before anything else: from, to
  std::vector<Chunk> chunks;
  int32_t tokens = 0, samples = 0;
  int32_t slot = 0;  // of the ring: which samples of the device this step writes
};

constexpr int32_t kSlots = 2;           // steps whose samples the device keeps: the one that runs, and the one before
constexpr int32_t kMaxSamples = 256;    // SamplingParams::n
constexpr int32_t kMaxBansPerSeq = 32;  // EOS and stop ids that min_tokens may have to ban

/// The largest step, and the rest that fixes where things lie in a StepBuffer.
struct StepLimits {
  int32_t tokens, seqs;
  int32_t blocks_per_seq, block_size, vocab;
  int32_t outs() const { return tokens; }
  int32_t samples() const { return tokens + kMaxSamples; }  // scores, and draws of which one row may give many
  int32_t copies() const { return samples(); }
  int32_t bans() const { return seqs * kMaxBansPerSeq; }
};

/// All that changes between steps, in one block of int32: staging slot, single upload, and the message to other ranks. Every list has its
/// fixed place, so that recorded steps can read it; page tables come last, so that only used rows are sent.
class StepBuffer {
 public:
  StepBuffer(const StepLimits& limits, const std::vector<int32_t>& eos);

  void fill(const StepPlan& plan);
  const int32_t* data() const { return words_.data(); }
  size_t bytes() const { return size_t(used_) * sizeof(int32_t); }  // of the part in use
  size_t capacity() const { return words_.size() * sizeof(int32_t); }

  /// The step as views into a copy of the block at `base`, in whatever memory.
  Step step(const int32_t* base) const;
  const SampleRow* sample_rows(const int32_t* base) const { return reinterpret_cast<const SampleRow*>(base + at_.samples); }
  const int32_t* bans(const int32_t* base) const { return base + at_.bans; }
  const int32_t* copies(const int32_t* base) const { return base + at_.copies; }
  int32_t samples() const { return words_[kSamples]; }
  int32_t copy_count() const { return words_[kCopies]; }
  int32_t top_n() const { return words_[kTopN]; }  // the largest of any sample row

  /// Where logits rows go that a caller asked for as they are.
  struct Sink {
    int32_t out_row;
    float* to;  // [vocab]
  };
  const std::vector<Sink>& sinks() const { return sinks_; }

 private:
  enum Header { kTokens, kSeqs, kOuts, kSamples, kCopies, kTopN, kMaxQ, kMaxKv, kHeaderWords = 16 };
  struct Offsets {  // in words
    int32_t ids, pos, slot, q_start, kv_len, out_rows, samples, bans, copies, blocks, end;
  };
  void add(const Chunk& chunk);
  int32_t add_out(int32_t token_row);
  void add_score(const Sequence& s, int32_t position, int32_t out_row);
  void add_draw(const Chunk& chunk, int32_t index, int32_t out_row);
  void add_sample(const SampleRow& row);
  int32_t* list(int32_t offset) { return words_.data() + offset; }

  const StepLimits limits_;
  const std::vector<int32_t> eos_;
  Offsets at_;
  std::vector<int32_t> words_;
  std::vector<Sink> sinks_;
  int32_t used_ = 0, bans_used_ = 0;
};

}  // namespace neox
