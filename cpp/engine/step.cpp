// SPDX-License-Identifier: Apache-2.0
#include "engine/step.h"

#include <algorithm>
#include <cassert>

namespace neox {

static_assert(sizeof(SampleRow) % sizeof(int32_t) == 0 && alignof(SampleRow) == alignof(int32_t));
constexpr int32_t kSampleWords = sizeof(SampleRow) / sizeof(int32_t);

StepBuffer::StepBuffer(const StepLimits& l, const std::vector<int32_t>& eos) : limits_(l), eos_(eos) {
  int32_t end = kHeaderWords;
  auto place = [&](int32_t words) {
    const int32_t at = end;
    end = (end + words + 15) / 16 * 16;
    return at;
  };
  at_ = {.ids = place(l.tokens),
         .pos = place(l.tokens),
         .slot = place(l.tokens),
         .q_start = place(l.seqs + 1),
         .kv_len = place(l.seqs),
         .out_rows = place(l.outs()),
         .samples = place(l.samples() * kSampleWords),
         .bans = place(l.bans()),
         .copies = place(2 * l.copies()),
         .blocks = place(l.seqs * l.blocks_per_seq),
         .end = end};
  words_.resize(size_t(end));
}

void StepBuffer::fill(const StepPlan& plan) {
  std::fill(words_.begin(), words_.begin() + kHeaderWords, 0);
  sinks_.clear();
  bans_used_ = 0;
  assert(int32_t(plan.copies.size()) <= limits_.copies());
  for (const auto& [from, to] : plan.copies) {
    int32_t* pair = list(at_.copies) + 2 * words_[kCopies]++;
    pair[0] = from, pair[1] = to;
  }
  for (const Chunk& chunk : plan.chunks) add(chunk);
  list(at_.q_start)[words_[kSeqs]] = words_[kTokens];
  used_ = at_.blocks + words_[kSeqs] * limits_.blocks_per_seq;
}

void StepBuffer::add(const Chunk& c) {
  const Sequence& s = *c.sequence;
  const int32_t token = words_[kTokens], seq = words_[kSeqs];
  assert(token + c.count <= limits_.tokens && seq < limits_.seqs && s.table.size() <= limits_.blocks_per_seq);
  list(at_.q_start)[seq] = token;
  list(at_.kv_len)[seq] = c.start + c.count;
  std::copy(s.table.blocks.begin(), s.table.blocks.end(), list(at_.blocks) + seq * limits_.blocks_per_seq);
  for (int32_t i = 0; i < c.count; i++) {
    const int32_t position = c.start + i, block = s.table.blocks[size_t(position / limits_.block_size)];
    list(at_.ids)[token + i] = s.tokens[size_t(position)];
    list(at_.pos)[token + i] = position;
    list(at_.slot)[token + i] = block * limits_.block_size + position % limits_.block_size;
    if (s.logits_out) sinks_.push_back({.out_row = add_out(token + i), .to = s.logits_out + int64_t(position) * limits_.vocab});
  }
  for (int32_t scored = c.first_score; scored < c.first_score + c.scores; scored++)  // the row of a token tells of the one after it
    add_score(s, scored, add_out(token + scored - 1 - c.start));
  if (c.draws > 0) {
    const int32_t out_row = add_out(token + c.count - 1);
    for (int32_t i = 0; i < c.draws; i++) add_draw(c, s.index + i, out_row);
  }
  words_[kTokens] += c.count, words_[kSeqs]++;
  words_[kMaxQ] = std::max(words_[kMaxQ], c.count), words_[kMaxKv] = std::max(words_[kMaxKv], c.start + c.count);
}

int32_t StepBuffer::add_out(int32_t token_row) {
  assert(words_[kOuts] < limits_.outs());
  list(at_.out_rows)[words_[kOuts]] = token_row;
  return words_[kOuts]++;
}

void StepBuffer::add_sample(const SampleRow& row) {
  assert(words_[kSamples] < limits_.samples());
  reinterpret_cast<SampleRow*>(list(at_.samples))[words_[kSamples]++] = row;
  words_[kTopN] = std::max(words_[kTopN], row.top_n);
}

void StepBuffer::add_score(const Sequence& s, int32_t position, int32_t out_row) {
  add_sample({.row = out_row, .token = s.tokens[size_t(position)], .position = position, .top_n = s.params.prompt_logprobs});
}

void StepBuffer::add_draw(const Chunk& c, int32_t index, int32_t out_row) {
  const Sequence& s = *c.sequence;
  const SamplingParams& p = s.params;
  const int32_t position = c.start + c.count, generated = position - s.prompt_length;
  SampleRow row{.row = out_row,
                .seed_lo = uint32_t(s.seed),
                .seed_hi = uint32_t(s.seed >> 32),
                .index = index,
                .position = position,
                .temperature = p.temperature,
                .top_p = p.top_p,
                .min_p = p.min_p,
                .top_k = p.top_k,
                .top_n = std::max(p.logprobs, 0)};
  row.bans_begin = bans_used_;
  if (generated < p.min_tokens && index == s.index) {
    auto ban = [&](int32_t id) { list(at_.bans)[bans_used_++] = id; };
    if (!p.ignore_eos) std::for_each(eos_.begin(), eos_.end(), ban);
    std::for_each(p.stop_token_ids.begin(), p.stop_token_ids.end(), ban);
    assert(bans_used_ <= limits_.bans());
  } else if (generated < p.min_tokens) {  // a sample that branches off here: the same bans
    row.bans_begin = sample_rows(words_.data())[words_[kSamples] - 1].bans_begin;
  }
  row.bans_end = bans_used_;
  add_sample(row);
}

Step StepBuffer::step(const int32_t* base) const {
  return {.tokens = words_[kTokens],
          .seqs = words_[kSeqs],
          .outs = words_[kOuts],
          .max_q = words_[kMaxQ],
          .max_kv = words_[kMaxKv],
          .ids = base + at_.ids,
          .pos = base + at_.pos,
          .slot = base + at_.slot,
          .q_start = base + at_.q_start,
          .kv_len = base + at_.kv_len,
          .blocks = base + at_.blocks,
          .blocks_ld = limits_.blocks_per_seq,
          .out_rows = base + at_.out_rows};
}

}  // namespace neox
