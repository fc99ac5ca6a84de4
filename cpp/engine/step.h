// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <span>
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
  int32_t first_score, scores;  // prompt tokens whose log-probs this chunk gives: in [first_score, score_end), less the virtual ones
  int32_t draws;  // new tokens, at position start + count: one, or one for each sample where a prompt ends; 0 in the middle of a prompt
  int32_t candidates = 0;  // of a beam: how many continuations are asked, in place of a draw
  int32_t edit_words = 0;  // of the block of edits, that draws or candidates take
  int32_t score_end = 0;
  int32_t samples() const { return scores + draws + (candidates > 0); }
  int32_t outs() const { return sequence->logits_out ? count : scores + (draws + candidates > 0); }
};
struct StepPlan {
  std::vector<std::pair<int32_t, int32_t>> copies;  // pages to copy before anything else: from, to
  std::vector<Chunk> chunks;
  int32_t tokens = 0, samples = 0, edit_words = 0, embed_rows = 0;
  int32_t slot = 0;  // of the ring: which samples of the device this step writes
};

constexpr int32_t kMaxSamples = 256;  // SamplingParams::n
constexpr int32_t kMaxEndIds = 16;    // of a model's EOS ids, and of a request's stop ids
constexpr int32_t kMaxBeamWidth = 64;
static_assert(2 * kMaxBeamWidth + 2 * kMaxEndIds <= kMaxCandidates);

/// How many of each a step has, or a recorded step has room for.
struct StepShape {
  int32_t tokens = 0, seqs = 0, outs = 0, samples = 0;
  int32_t max_q = 0, max_kv = 0;  // longest query chunk and longest KV of a sequence
  bool single_rows = false;       // whether a sequence has, or may have, one row
  bool holds(const StepShape& other) const;
};

/// The largest step, and the rest that fixes where things lie in a StepBuffer.
struct StepLimits {
  int32_t tokens, seqs;
  int32_t blocks_per_seq, block_size, vocab;
  int32_t slots = 2;                                        // of the ring of samples: steps that may be on their way at once
  std::vector<StepShape> recorded = {};                     // smaller ones first
  int32_t edit_words = 1 << 20;                             // of edits, of all draws of a step
  int32_t hidden = 0, embed_rows = 0;                       // embeddings in a step, that requests brought
  int32_t table_rows = 0;                                   // of the tables of tuning tasks, which stay on the device
  int32_t samples() const { return tokens + kMaxSamples; }  // scores, and draws of which one row may give many
  int32_t candidates() const { return seqs * kMaxCandidates; }
  StepShape largest() const {
    return {.tokens = tokens, .seqs = seqs, .outs = tokens, .samples = samples(), .max_q = tokens, .max_kv = blocks_per_seq * block_size};
  }
};
/// The shapes worth recording: one token a sequence; and up to 512 tokens of prompts, and of prompts and single tokens. With as many logits
/// rows as sequences, at most `logit_rows`.
std::vector<StepShape> shapes_to_record(const StepLimits& limits, int32_t logit_rows);

/// All that changes between steps, in one block of int32: staging slot, single upload, and the message to other ranks. Where a list lies
/// depends on the step's shape alone, so that a recorded step finds it; the others send no more than they use.
class StepBuffer {
 public:
  explicit StepBuffer(const StepLimits& limits);

  /// Ids >= limit are banned. A step that fits a recorded shape takes it, and is padded.
  void fill(const StepPlan& plan, int32_t limit);
  /// A step of a recorded shape that is nothing but padding.
  void fill_padding(int32_t recorded);
  /// What a rank is to do with the block: run the step, run it looking for NaN, or go back to its caller.
  enum class Order : int32_t { step, probe, leave };
  void set_order(Order order) { words_[kOrder] = int32_t(order); }
  Order order() const { return Order(words_[kOrder]); }
  void fill_leave();
  /// Where another rank's block is received, and what makes a step of it; logits rows that rank 0's caller asked for go to
  /// `logits`, on the rank that sends them on; elsewhere null.
  int32_t* message() { return words_.data(); }
  void read_message(size_t bytes, std::vector<float>* logits);
  const int32_t* data() const { return words_.data(); }
  size_t bytes() const { return size_t(words_[kUsed]) * sizeof(int32_t); }  // of the part in use
  size_t capacity() const { return words_.size() * sizeof(int32_t); }
  /// Embeddings that requests brought are its last part, which goes to the device by itself: [embed_rows, hidden] f32.
  const void* embeds() const { return words_.data() + words_[kEmbedsAt]; }
  int32_t embed_rows() const { return words_[kEmbeds]; }
  size_t embed_bytes() const { return size_t(embed_rows()) * size_t(limits_.hidden) * sizeof(float); }
  size_t device_bytes() const { return bytes() - embed_bytes(); }  // of the part before
  size_t device_capacity() const { return capacity() - size_t(limits_.embed_rows) * size_t(limits_.hidden) * sizeof(float); }

  /// The step as views into a copy of the block at `base`, in whatever memory.
  Step step(const int32_t* base) const;
  const SampleRow* sample_rows(const int32_t* base) const { return reinterpret_cast<const SampleRow*>(base + at_.samples); }
  Edits edits(const int32_t* base) const;
  const BeamRow* beam_rows(const int32_t* base) const { return reinterpret_cast<const BeamRow*>(base + at_.beam_rows); }
  int32_t beam_rows() const { return words_[kBeamRows]; }  // padding counted
  int32_t candidates() const { return words_[kCandidates]; }
  const int32_t* copies(const int32_t* base) const { return base + words_[kCopiesAt]; }
  int32_t recorded() const { return words_[kRecorded]; }   // which of the recorded shapes it has, or -1
  int32_t ring_slot() const { return words_[kRingSlot]; }  // of the ring of samples, that it writes
  int32_t samples() const { return words_[kRealSamples]; }
  int32_t padded_samples() const { return words_[kSamples]; }
  int32_t copy_count() const { return words_[kCopies]; }
  int32_t top_n() const { return words_[kTopN]; }  // the largest of any sample row

  /// Where logits rows go that a caller asked for as they are.
  struct Sink {
    int32_t out_row;
    float* to;  // [vocab]
  };
  const std::vector<Sink>& sinks() const { return sinks_; }

 private:
  enum Header {
    kTokens,
    kSeqs,
    kOuts,
    kSamples,
    kMaxQ,
    kMaxKv,
    kSingleRows,  // of the shape
    kRecorded,
    kRingSlot,
    kRealSamples,
    kCopies,
    kCopiesAt,
    kEditRows,
    kBeamRows,
    kCandidates,
    kTopN,
    kSinks,
    kSinksAt,
    kEmbeds,
    kEmbedsAt,
    kOrder,
    kUsed,
    kHeaderWords = 32
  };
  struct Offsets {  // in words
    int32_t ids, pos, slot, q_start, kv_len, out_rows, samples, edit_rows, beam_rows, blocks;
    int32_t edits;  // the last: its own length is not the shape's
  };
  static Offsets place(const StepShape& shape, int32_t blocks_per_seq);
  void begin(const StepShape& shape, int32_t recorded);
  void add(const Chunk& chunk);
  int32_t device_id(int32_t token);
  int32_t add_out(int32_t token_row);
  void add_score(const Sequence& s, int32_t position, int32_t out_row);
  void add_draw(const Chunk& chunk, int32_t index, int32_t out_row, int32_t edit);
  int32_t add_edits(const Chunk& chunk, int32_t out_row);
  void add_beam(const Chunk& chunk, int32_t out_row);
  void add_sample(SampleRow row);
  void pad();
  void finish(const StepPlan& plan);
  int32_t* list(int32_t offset) { return words_.data() + offset; }

  const StepLimits limits_;
  Offsets at_{};
  std::vector<int32_t> words_;
  std::vector<Sink> sinks_;
  std::vector<std::span<const float>> soft_;  // rows of embeds, on their way into the block
  struct {
    int32_t tokens, seqs, outs, samples, edit_rows, edit_words, beam_rows, embed_rows;
  } used_{};
  int32_t limit_ = 0;
};

}  // namespace neox
