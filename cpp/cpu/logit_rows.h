// SPDX-License-Identifier: Apache-2.0
// What sample and beam_candidates do alike with a row of logits.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "backend/args.h"

namespace neox {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

/// The row as its draws see it, out of its logits or log-probs.
inline void edit(const Edits& edits, const EditRow& e, const float* from, float* to, int64_t vocab) {
  if (e.allowed_begin == e.allowed_end) {
    std::copy_n(from, vocab, to);
  } else {
    std::fill_n(to, vocab, kBanned);
    for (int32_t i = e.allowed_begin; i < e.allowed_end; i++) to[edits.ids[i]] = from[edits.ids[i]];
  }
  for (int32_t i = e.edits_begin; i < e.edits_end; i++) {
    const Edit& one = edits.edits[i];
    const float z = to[one.id] + one.bias;
    to[one.id] = (z < 0 ? z * one.factor : z / one.factor) + one.offset;
  }
  for (int32_t i = e.bans_begin; i < e.bans_end; i++) to[edits.ids[i]] = kBanned;
}

/// Ids from the most to the least probable.
struct ByRank {
  const float* logits;
  bool operator()(int32_t x, int32_t y) const { return logits[x] != logits[y] ? logits[x] > logits[y] : x < y; }
};

/// The n most probable ids below `limit` that are not banned, or as many as there are, in falling order.
inline void list_best(const float* logits, int32_t limit, int32_t n, std::vector<int32_t>& ids) {
  ids.clear();
  float last = kBanned;  // what an id must exceed; those before it in rising order win ties
  for (int32_t id = 0; id < limit; id++) {
    if (!(logits[id] > last)) continue;
    if (int32_t(ids.size()) == n) ids.pop_back();
    ids.insert(std::upper_bound(ids.begin(), ids.end(), id, ByRank{logits}), id);
    if (int32_t(ids.size()) == n) last = logits[ids.back()];
  }
}

/// Of an args' row: its most probable ids, by the logits as they are.
template <class Args, class Row>
void list_top(const Args& a, const Row& r, const float* logits, double log_total, std::vector<int32_t>& ids) {
  list_best(logits, int32_t(a.logits.cols), r.top_n, ids);
  const auto n = ptrdiff_t(ids.size());
  for (ptrdiff_t k = 0; k < r.top_n; k++) {
    const int64_t to = int64_t(r.out) * a.top_ld + k;
    a.top_ids[to] = k < n ? ids[size_t(k)] : -1;
    a.top_logprobs[to] = k < n ? float(logits[ids[size_t(k)]] - log_total) : kBanned;
  }
}

}  // namespace neox
