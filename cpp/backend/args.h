// SPDX-License-Identifier: Apache-2.0
// The arguments of the backend's ops: plain views, owned by nobody.
#pragma once
#include <cstdint>

#include "base/tensor.h"

namespace neox {

enum class Act : uint8_t { none, gelu, gelu_tanh, relu, silu };  // gelu: by erf

struct Norm {
  Tensor gamma, beta;  // [1, hidden] f32
  float eps = 1e-5f;
};
struct Linear {
  Tensor weight;  // rows = outputs, cols = inputs; data in the backend's packed layout
  Tensor bias;    // [1, outputs] in the backend's activation type, or empty
};
/// One layer's part of the paged KV cache. A page's inner layout is the backend's own.
struct KvPages {
  void *k = nullptr, *v = nullptr;
  DType dtype = DType::f32;
  int32_t heads = 0, head_dim = 0, block = 16;  // block: positions in a page
};
struct Rope {
  const float* cos_sin = nullptr;  // [max_positions, 2 * half]: half cosines, then half sines
  int32_t half = 0;                // element i < half is rotated with element i + half
};

/// What changes between steps: launch bounds, and pointers into the one StepBuffer. A recorded step may have room for more than is there:
/// padding has id and pos 0, slot -1, no rows in its sequence, kv_len 0, out row 0, and a SampleRow::row of -1.
struct Step {
  int32_t tokens = 0, seqs = 0, outs = 0;
  int32_t max_q = 0, max_kv = 0;     // longest query chunk and longest KV of a sequence
  bool single_rows = true;           // whether a sequence may have one row here
  const int32_t* ids = nullptr;      // [tokens]; -1 - k = entry k of the ring of samples; from the vocabulary's size on: of virtual tokens
  const int32_t* pos = nullptr;      // [tokens]
  const int32_t* slot = nullptr;     // [tokens] page * block + offset; -1 = padding row, nothing is stored
  const int32_t* q_start = nullptr;  // [seqs + 1] first token row of each sequence
  const int32_t* kv_len = nullptr;   // [seqs] positions known once this step is stored
  const int32_t* blocks = nullptr;   // [seqs, blocks_ld] page tables
  int32_t blocks_ld = 0;
  const int32_t* out_rows = nullptr;  // [outs] token rows whose logits are asked, in any number per sequence
  // The same two lists in host memory, which a step that is recorded does not use.
  const int32_t *host_q_start = nullptr, *host_kv_len = nullptr;
};

struct AddNormArgs {  // x += add + bias; out = norm(x); out2 = norm2(x)
  Tensor x;           // [tokens, hidden] f32
  Tensor add = {};    // [tokens, hidden] or empty
  Tensor bias = {};   // [1, hidden] f32 or empty
  const Norm* norm = nullptr;
  Tensor out = {};
  const Norm* norm2 = nullptr;
  Tensor out2 = {};
};
struct LinearArgs {  // out = act(x W^T + bias); parts of one call that name the same out add up in order, without act
  Tensor out;        // [tokens, outputs]
  Tensor x;          // [tokens, inputs]
  const Linear& w;
  Act act = Act::none;
};
struct AttentionArgs {  // rotate q and k, store k and v in their pages, attend causally
  Tensor out;           // [tokens, heads * head_dim]
  Tensor qkv;           // [tokens, heads * 3 * head_dim], each head's q, k, v side by side
  KvPages kv;
  const Step& step;
  Rope rope;
  float scale;
};
struct GatherArgs {
  Tensor out;           // [count, cols]
  Tensor x;             // [tokens, cols]
  const int32_t* rows;  // [count]
};
struct CopyBlocksArgs {
  KvPages kv;
  const int32_t* pairs;  // [count, 2] from page, to page
  int32_t count;
};

/// What becomes of one id's logit z before it is drawn: z += bias; z is divided by factor, or multiplied where it is negative; z += offset.
struct Edit {
  int32_t id = 0;
  float bias = 0.f, factor = 1.f, offset = 0.f;
};
/// One out row as its draws see it. Ids outside of `allowed`, if that is not empty, are banned; then come edits, at most one for each id;
/// then bans. All are ranges: of SampleArgs::edits, and of SampleArgs::ids.
struct EditRow {
  int32_t row = 0;  // out row; -1 = padding
  int32_t edits_begin = 0, edits_end = 0;
  int32_t allowed_begin = 0, allowed_end = 0, bans_begin = 0, bans_end = 0;
  int32_t logprobs = 0;  // 1: it is the row's log-probs that are edited, not its logits
};
/// All the rows of a step that are edited.
struct Edits {
  const EditRow* rows = nullptr;  // [count], at most one for each out row
  int32_t count = 0;
  const Edit* edits = nullptr;
  const int32_t* ids = nullptr;  // allowed ones and bans
};

/// How one output row is sampled, or which given token is scored.
struct SampleRow {
  int32_t row = 0;     // out row; a row may be named several times; -1 = padding, nothing is done
  int32_t out = 0;     // where in SampleArgs::out the result goes
  int32_t limit = 0;   // ids >= limit are banned
  int32_t token = -1;  // >= 0: not drawn, its log-prob and rank are asked
  uint32_t seed_lo = 0, seed_hi = 0;
  int32_t index = 0;        // of the sample within its request
  int32_t position = 0;     // of the token to draw
  float temperature = 0.f;  // 0 = greedy
  float top_p = 1.f, min_p = 0.f, typical_p = 1.f;
  int32_t top_k = 0;      // 0 = all
  int32_t edit = -1;      // of Edits::rows, whose `row` is this one's; -1 = drawn from the logits as they are
  int32_t top_n = 0;      // most probable ids to report, up to SampleArgs::top_ld
  int32_t processed = 0;  // 1: a drawn id's log-prob is that after edits and temperature, among those that may be drawn
};
enum SampleFlag : int32_t { kNonFinite = 1, kAllBanned = 2 };
struct Sample {
  int32_t id = 0;       // 0 where flags is not 0
  float logprob = 0.f;  // natural log of softmax(logits)[id], before temperature and filters, but for SampleRow::processed
  int32_t rank = 0;     // how many ids are more probable
  int32_t flags = 0;    // SampleFlag
};
struct EmbedArgs {
  Tensor out;          // [tokens, hidden]
  const int32_t* ids;  // [tokens]; -1 - k stands for sampled[k].id, which only the device knows yet; vocab + k is row k of pool
  Tensor table;        // [vocab, hidden] row-major
  const Sample* sampled = nullptr;  // what earlier steps drew
  Tensor pool = {};                 // [rows, hidden] f32: virtual tokens' embeddings
};
struct SampleArgs {
  Tensor logits;          // [rows, vocab] f32, only read; its first row is out row `first`
  const SampleRow* rows;  // [count]
  int32_t count;
  Edits edits;
  Sample* out;          // [every SampleRow::out]
  int32_t top_ld;       // room for each row's top ids
  int32_t* top_ids;     // [every SampleRow::out, top_ld] of which top_n are written, but for flagged rows; -1 past the vocabulary
  float* top_logprobs;  // as top_ids
  int32_t first = 0;
};

/// A row of logits whose best continuations are asked.
struct BeamRow {
  int32_t row = 0;               // out row; -1 = padding, nothing is done
  int32_t out = 0;               // as SampleRow's: flags and the most probable ids
  int32_t limit = 0;             // ids >= limit are banned
  int32_t edit = -1;             // of Edits::rows, which edits log-probs; -1 = none
  int32_t first = 0, count = 0;  // where in BeamArgs::candidates, and how many
  int32_t top_n = 0;
};
struct Candidate {
  int32_t id = -1;      // -1 = all others are banned
  float score = 0.f;    // log-prob after edits
  float logprob = 0.f;  // before
  int32_t rank = 0;     // how many ids are more probable, before edits
};
struct BeamArgs {       // of each row the candidates of the best scores, in falling order, ties by the lower id
  Tensor logits;        // [rows, vocab] f32, only read; its first row is out row `first`
  const BeamRow* rows;  // [count]
  int32_t count;
  Edits edits;
  Candidate* candidates;  // [every BeamRow::first + count]
  Sample* out;            // [every BeamRow::out] of which flags are written
  int32_t top_ld;         // as SampleArgs's
  int32_t* top_ids;
  float* top_logprobs;
  int32_t first = 0;
};
constexpr int32_t kMaxCandidates = 160;  // of a row

}  // namespace neox
