// SPDX-License-Identifier: Apache-2.0
#include "engine/step.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <span>

#include "base/check.h"

namespace neox {

static_assert(sizeof(SampleRow) % sizeof(int32_t) == 0 && alignof(SampleRow) == alignof(int32_t));
static_assert(sizeof(Edit) == 4 * sizeof(int32_t) && alignof(Edit) == alignof(int32_t) && alignof(EditRow) == alignof(int32_t));
constexpr int32_t kSampleWords = sizeof(SampleRow) / sizeof(int32_t), kEditRowWords = sizeof(EditRow) / sizeof(int32_t);
constexpr int32_t kBeamRowWords = sizeof(BeamRow) / sizeof(int32_t);
constexpr int32_t kEditWords = sizeof(Edit) / sizeof(int32_t);

bool StepShape::holds(const StepShape& s) const {
  return tokens >= s.tokens && seqs >= s.seqs && outs >= s.outs && samples >= s.samples && max_q >= s.max_q && max_kv >= s.max_kv &&
         single_rows >= s.single_rows;
}

std::vector<StepShape> shapes_to_record(const StepLimits& limits, int32_t logit_rows) {
  std::vector<StepShape> shapes;
  const int32_t most = std::min({limits.seqs, logit_rows, 256}), max_kv = limits.largest().max_kv;
  for (int32_t n = 1, last = 0; last < most; n += n < 8 ? n : n < 64 ? 8 : n < 128 ? 16 : 32) {
    last = std::min(n, most);
    shapes.push_back({.tokens = last, .seqs = last, .outs = last, .samples = last, .max_q = 1, .max_kv = max_kv, .single_rows = true});
  }
  for (int32_t tokens = 64; tokens <= std::min(limits.tokens, 512); tokens += 64) {
    const int32_t seqs = std::min(tokens, most);
    for (bool single_rows : {false, true})
      shapes.push_back(
          {.tokens = tokens, .seqs = seqs, .outs = seqs, .samples = seqs, .max_q = tokens, .max_kv = max_kv, .single_rows = single_rows});
  }
  return shapes;
}

StepBuffer::Offsets StepBuffer::place(const StepShape& s, int32_t blocks_per_seq) {
  int32_t end = kHeaderWords;
  auto list = [&](int32_t words) {
    const int32_t at = end;
    end = (end + words + 15) / 16 * 16;
    return at;
  };
  return {.ids = list(s.tokens),
          .pos = list(s.tokens),
          .slot = list(s.tokens),
          .q_start = list(s.seqs + 1),
          .kv_len = list(s.seqs),
          .out_rows = list(s.outs),
          .samples = list(s.samples * kSampleWords),
          .edit_rows = list(s.seqs * kEditRowWords),
          .beam_rows = list(s.seqs * kBeamRowWords),
          .blocks = list(s.seqs * blocks_per_seq),
          .edits = end};
}

StepBuffer::StepBuffer(const StepLimits& limits) : limits_(limits) {
  // A pair of pages for each sample that branches off, and for each sequence that begins with a prefix.
  const int32_t copies = 2 * (limits.samples() + limits.seqs + 1), sinks = limits.tokens;
  words_.resize(size_t(place(limits.largest(), limits.blocks_per_seq).edits + limits.edit_words + copies + sinks) +
                size_t(limits.embed_rows) * size_t(limits.hidden));
}

void StepBuffer::begin(const StepShape& s, int32_t recorded) {
  std::fill(words_.begin(), words_.begin() + kHeaderWords, 0);
  words_[kTokens] = s.tokens, words_[kSeqs] = s.seqs, words_[kOuts] = s.outs, words_[kSamples] = s.samples;
  words_[kMaxQ] = s.max_q, words_[kMaxKv] = s.max_kv, words_[kSingleRows] = s.single_rows;
  words_[kRecorded] = recorded;
  at_ = place(s, limits_.blocks_per_seq);
  used_ = {};
  sinks_.clear();
  soft_.clear();
}

void StepBuffer::fill(const StepPlan& plan, int32_t limit) {
  StepShape shape{.tokens = plan.tokens, .seqs = int32_t(plan.chunks.size()), .samples = plan.samples};
  bool plain = true;
  for (const Chunk& c : plan.chunks) {
    shape.outs += c.outs();
    shape.max_q = std::max(shape.max_q, c.count), shape.max_kv = std::max(shape.max_kv, c.start + c.count);
    shape.single_rows = shape.single_rows || c.count == 1;
    plain = plain && !c.sequence->logits_out;  // else logits are taken out between the ops
  }
  const auto& known = limits_.recorded;
  const auto found = std::find_if(known.begin(), known.end(), [&](const StepShape& room) { return plain && room.holds(shape); });
  if (found == known.end()) begin(shape, -1);
  else begin(*found, int32_t(found - known.begin()));
  limit_ = limit;
  words_[kRingSlot] = plan.slot;
  for (const Chunk& chunk : plan.chunks) add(chunk);
  pad();
  finish(plan);
}

void StepBuffer::fill_padding(int32_t recorded) {
  begin(limits_.recorded[size_t(recorded)], recorded);
  pad();
  finish({});
}

void StepBuffer::pad() {
  for (int32_t i = used_.tokens; i < words_[kTokens]; i++) list(at_.ids)[i] = 0, list(at_.pos)[i] = 0, list(at_.slot)[i] = -1;
  for (int32_t i = used_.seqs; i < words_[kSeqs]; i++) list(at_.kv_len)[i] = 0;
  for (int32_t i = used_.seqs; i <= words_[kSeqs]; i++) list(at_.q_start)[i] = used_.tokens;
  for (int32_t i = used_.outs; i < words_[kOuts]; i++) list(at_.out_rows)[i] = 0;
  auto* rows = reinterpret_cast<SampleRow*>(list(at_.samples));
  std::fill(rows + used_.samples, rows + words_[kSamples], SampleRow{.row = -1});
  words_[kRealSamples] = used_.samples;
  words_[kEditRows] = words_[kRecorded] < 0 ? used_.edit_rows : words_[kSeqs];
  auto* edit_rows = reinterpret_cast<EditRow*>(list(at_.edit_rows));
  std::fill(edit_rows + used_.edit_rows, edit_rows + words_[kEditRows], EditRow{.row = -1});
  words_[kBeamRows] = words_[kRecorded] < 0 ? used_.beam_rows : words_[kSeqs];
  auto* beam_rows = reinterpret_cast<BeamRow*>(list(at_.beam_rows));
  std::fill(beam_rows + used_.beam_rows, beam_rows + words_[kBeamRows], BeamRow{.row = -1});
}

/// What has no fixed place comes last: pages to copy, which logits rows a caller asked for, and embeddings.
void StepBuffer::finish(const StepPlan& plan) {
  int32_t at = words_[kCopiesAt] = at_.edits + used_.edit_words;
  assert(size_t(at) + 2 * plan.copies.size() + sinks_.size() <= words_.size());
  for (const auto& [from, to] : plan.copies) words_[size_t(at++)] = from, words_[size_t(at++)] = to;
  words_[kCopies] = int32_t(plan.copies.size());
  words_[kSinksAt] = at;
  for (const Sink& sink : sinks_) words_[size_t(at++)] = sink.out_row;
  words_[kSinks] = int32_t(sinks_.size());
  words_[kEmbedsAt] = at, words_[kEmbeds] = used_.embed_rows;
  for (const auto& rows : soft_) {
    std::memcpy(list(at), rows.data(), rows.size_bytes());
    at += int32_t(rows.size());
  }
  words_[kUsed] = at;
}

void StepBuffer::fill_leave() {
  std::fill(words_.begin(), words_.begin() + kHeaderWords, 0);
  words_[kUsed] = kHeaderWords;
  set_order(Order::leave);
}

void StepBuffer::read_message(size_t bytes, std::vector<float>* logits) {
  if (bytes < kHeaderWords * sizeof(int32_t) || bytes != this->bytes())
    fail(ErrorKind::runtime, "a step of ", bytes, " bytes came from rank 0, expected ", this->bytes(), " by its header");
  const auto shape = std::span(words_).subspan(0, kHeaderWords);
  at_ = place({.tokens = shape[kTokens], .seqs = shape[kSeqs], .outs = shape[kOuts], .samples = shape[kSamples]}, limits_.blocks_per_seq);
  sinks_.clear();
  if (!logits) return;
  logits->resize(size_t(words_[kSinks]) * size_t(limits_.vocab));
  for (int32_t i = 0; i < words_[kSinks]; i++)
    sinks_.push_back({.out_row = words_[size_t(words_[kSinksAt] + i)], .to = logits->data() + int64_t(i) * limits_.vocab});
}

void StepBuffer::add(const Chunk& c) {
  const Sequence& s = *c.sequence;
  const int32_t token = used_.tokens, seq = used_.seqs;
  assert(token + c.count <= words_[kTokens] && seq < words_[kSeqs] && s.table.size() <= limits_.blocks_per_seq);
  list(at_.q_start)[seq] = token;
  list(at_.kv_len)[seq] = c.start + c.count;
  std::copy(s.table.blocks.begin(), s.table.blocks.end(), list(at_.blocks) + seq * limits_.blocks_per_seq);
  for (int32_t i = 0; i < c.count; i++) {
    const int32_t position = c.start + i, block = s.table.blocks[size_t(position / limits_.block_size)];
    list(at_.ids)[token + i] = device_id(s.tokens[size_t(position)]);
    list(at_.pos)[token + i] = position;
    list(at_.slot)[token + i] = block * limits_.block_size + position % limits_.block_size;
    if (s.logits_out) sinks_.push_back({.out_row = add_out(token + i), .to = s.logits_out + int64_t(position) * limits_.vocab});
  }
  if (const int32_t rows = s.soft_rows(c.start, c.count); rows > 0)
    soft_.push_back(std::span(*s.embeds).subspan(size_t(std::max(c.start, s.soft_begin) - s.soft_begin) * size_t(limits_.hidden),
                                                 size_t(rows) * size_t(limits_.hidden)));
  for (int32_t scored = c.first_score; scored < c.score_end; scored++)  // the row of a token tells of the one after it
    if (!is_virtual(s.tokens[size_t(scored)])) add_score(s, scored, add_out(token + scored - 1 - c.start));
  if (c.draws > 0) {
    const int32_t out_row = add_out(token + c.count - 1);
    const int32_t edit = add_edits(c, out_row);
    for (int32_t i = 0; i < c.draws; i++) add_draw(c, s.index + i, out_row, edit);
  }
  if (c.candidates > 0) add_beam(c, add_out(token + c.count - 1));
  used_.tokens += c.count, used_.seqs++;
}

/// What the device knows a token as: virtual ones are rows of its pool, where tables come first, then what requests brought.
int32_t StepBuffer::device_id(int32_t token) {
  if (!is_virtual(token)) return token;
  if (token > kVirtual) return limits_.vocab + (token - kVirtual - 1);
  assert(used_.embed_rows < limits_.embed_rows);
  return limits_.vocab + limits_.table_rows + used_.embed_rows++;
}

int32_t StepBuffer::add_out(int32_t token_row) {
  assert(used_.outs < words_[kOuts]);
  list(at_.out_rows)[used_.outs] = token_row;
  return used_.outs++;
}

void StepBuffer::add_sample(SampleRow row) {
  assert(used_.samples < words_[kSamples]);
  row.out = words_[kRingSlot] * limits_.samples() + used_.samples, row.limit = limit_;
  reinterpret_cast<SampleRow*>(list(at_.samples))[used_.samples++] = row;
  words_[kTopN] = std::max(words_[kTopN], row.top_n);
}

void StepBuffer::add_score(const Sequence& s, int32_t position, int32_t out_row) {
  add_sample({.row = out_row, .token = s.tokens[size_t(position)], .position = position, .top_n = s.params.prompt_logprobs});
}

void StepBuffer::add_draw(const Chunk& c, int32_t index, int32_t out_row, int32_t edit) {
  const Sequence& s = *c.sequence;
  const SamplingParams& p = s.params;
  add_sample({.row = out_row,
              .seed_lo = uint32_t(s.seed),
              .seed_hi = uint32_t(s.seed >> 32),
              .index = p.first_index + index,
              .position = c.start + c.count,
              .temperature = p.temperature,
              .top_p = s.top_p,
              .min_p = p.min_p,
              .typical_p = p.typical_p,
              .top_k = p.top_k,
              .edit = edit,
              .top_n = std::max(p.logprobs, 0),
              .processed = p.logprobs_mode == LogprobsMode::processed});
}

void StepBuffer::add_beam(const Chunk& c, int32_t out_row) {
  const int32_t top_n = std::max(c.sequence->params.logprobs, 0), first = words_[kCandidates];
  reinterpret_cast<BeamRow*>(list(at_.beam_rows))[used_.beam_rows++] = {.row = out_row,
                                                                        .out = words_[kRingSlot] * limits_.samples() + used_.samples,
                                                                        .limit = limit_,
                                                                        .edit = add_edits(c, out_row),
                                                                        .first = words_[kRingSlot] * limits_.candidates() + first,
                                                                        .count = c.candidates,
                                                                        .top_n = top_n};
  words_[kCandidates] = first + c.candidates;
  add_sample({.row = -1, .top_n = top_n});  // its place among the samples
}

/// Of a chunk that has any, else -1. Edits and ids share one block: two views of the same words.
int32_t StepBuffer::add_edits(const Chunk& c, int32_t out_row) {
  if (c.edit_words == 0) return -1;
  const Processors& p = c.sequence->processors;
  int32_t& used = used_.edit_words;
  used = (used + kEditWords - 1) / kEditWords * kEditWords;
  EditRow row{.row = out_row, .edits_begin = used / kEditWords, .logprobs = c.candidates > 0};
  std::copy(p.edits().begin(), p.edits().end(), reinterpret_cast<Edit*>(list(at_.edits)) + row.edits_begin);
  row.edits_end = row.edits_begin + int32_t(p.edits().size());
  row.allowed_begin = row.edits_end * kEditWords, row.allowed_end = row.allowed_begin + int32_t(p.allowed().size());
  row.bans_begin = row.allowed_end, row.bans_end = row.bans_begin + int32_t(p.bans().size());
  std::copy(p.allowed().begin(), p.allowed().end(), list(at_.edits) + row.allowed_begin);
  std::copy(p.bans().begin(), p.bans().end(), list(at_.edits) + row.bans_begin);
  used = row.bans_end;
  assert(used <= limits_.edit_words && used_.edit_rows < words_[kSeqs]);
  reinterpret_cast<EditRow*>(list(at_.edit_rows))[used_.edit_rows] = row;
  return used_.edit_rows++;
}

Edits StepBuffer::edits(const int32_t* base) const {
  return {.rows = reinterpret_cast<const EditRow*>(base + at_.edit_rows),
          .count = words_[kEditRows],
          .edits = reinterpret_cast<const Edit*>(base + at_.edits),
          .ids = base + at_.edits};
}

Step StepBuffer::step(const int32_t* base) const {
  return {.tokens = words_[kTokens],
          .seqs = words_[kSeqs],
          .outs = words_[kOuts],
          .max_q = words_[kMaxQ],
          .max_kv = words_[kMaxKv],
          .single_rows = words_[kSingleRows] != 0,
          .ids = base + at_.ids,
          .pos = base + at_.pos,
          .slot = base + at_.slot,
          .q_start = base + at_.q_start,
          .kv_len = base + at_.kv_len,
          .blocks = base + at_.blocks,
          .blocks_ld = limits_.blocks_per_seq,
          .out_rows = base + at_.out_rows,
          .host_q_start = words_.data() + at_.q_start,
          .host_kv_len = words_.data() + at_.kv_len};
}

}  // namespace neox
