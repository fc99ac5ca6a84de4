// SPDX-License-Identifier: Apache-2.0
// What sample computes, in plain double precision, over one row of logits.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/args.h"

namespace neox::test::reference {

/// Ids from the most to the least probable, ties by the lower id.
inline std::vector<int32_t> ranking(const std::vector<float>& logits) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
  return ids;
}

/// Natural log of the softmax over the whole row, before bans, temperature and filters.
inline std::vector<double> logprobs(const std::vector<float>& logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float x : logits) total += std::exp(x - most);
  std::vector<double> out;
  for (float x : logits) out.push_back(x - most - std::log(total));
  return out;
}

/// How many ids are more probable.
inline int32_t rank_of(const std::vector<float>& logits, int32_t id) {
  return int32_t(std::count_if(logits.begin(), logits.end(), [&](float x) { return x > logits[size_t(id)]; }));
}

/// The distribution that an id is drawn from: ids at or past `limit` and bans leave first, then temperature, top-k, top-p, min-p, each of
/// what the one before it left (top-k takes ties by the lower id). Temperature 0: all on the most probable id. All zeros: all are banned.
inline std::vector<double> distribution(const std::vector<float>& logits, const SampleRow& r, int32_t limit,
                                        const std::vector<int32_t>& bans) {
  std::vector<int32_t> ids = ranking(logits);
  std::erase_if(ids, [&](int32_t id) {
    return id >= limit || std::find(bans.begin() + r.bans_begin, bans.begin() + r.bans_end, id) != bans.begin() + r.bans_end;
  });
  std::vector<double> p(logits.size());
  if (ids.empty()) return p;
  const auto logit = [&](int32_t id) { return double(logits[size_t(id)]); };
  if (r.temperature == 0) ids.resize(1);
  if (r.top_k > 0) ids.resize(std::min(ids.size(), size_t(r.top_k)));
  std::vector<double> weight;
  for (int32_t id : ids) weight.push_back(r.temperature == 0 ? 1 : std::exp((logit(id) - logit(ids[0])) / double(r.temperature)));
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  double more_probable = 0, kept = 0;
  for (size_t i = 0; i < ids.size(); i++) {
    const bool keep = i == 0 || (more_probable < double(r.top_p) * total && weight[i] >= double(r.min_p) * weight[0]);
    more_probable += weight[i];
    if (keep) kept += p[size_t(ids[i])] = weight[i];
  }
  for (double& x : p) x /= kept;
  return p;
}

}  // namespace neox::test::reference
