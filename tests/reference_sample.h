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

/// A row as its draws see it; a banned id has -inf.
inline std::vector<double> edited(const std::vector<double>& row, const EditRow& e, const std::vector<Edit>& edits,
                                  const std::vector<int32_t>& ids) {
  std::vector<double> z = row;
  if (e.allowed_begin < e.allowed_end) {
    std::fill(z.begin(), z.end(), -INFINITY);
    for (int32_t i = e.allowed_begin; i < e.allowed_end; i++) z[size_t(ids[size_t(i)])] = row[size_t(ids[size_t(i)])];
  }
  for (int32_t i = e.edits_begin; i < e.edits_end; i++) {
    const Edit& edit = edits[size_t(i)];
    double& x = z[size_t(edit.id)];
    x += edit.bias;
    x = x < 0 ? x * edit.factor : x / edit.factor;
    x += edit.offset;
  }
  for (int32_t i = e.bans_begin; i < e.bans_end; i++) z[size_t(ids[size_t(i)])] = -INFINITY;
  return z;
}

/// Of ids of these weights: the fewest whose -log p are nearest to the entropy and that hold a share `mass`, and all that are as near.
inline std::vector<size_t> typical(const std::vector<double>& weight, double mass) {
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  double entropy = 0;
  for (double w : weight) entropy -= w > 0 ? w / total * std::log(w / total) : 0;
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < weight.size(); i++) order.emplace_back(std::fabs(-std::log(weight[i] / total) - entropy), i);
  std::stable_sort(order.begin(), order.end());
  std::vector<size_t> kept;
  double before = 0;
  for (const auto& [distance, i] : order) {
    if (before >= mass * total && !(distance == order[kept.size() - 1].first)) break;
    before += weight[i];
    kept.push_back(i);
  }
  return kept;
}

/// The distribution that an id is drawn from. z: the row as its draws see it, of which ids at or past `limit` leave first; then
/// temperature, top-k, top-p, min-p, typical-p, each of what the one before it left (top-k takes ties by the lower id). Temperature 0: all
/// on the most probable id. All zeros: all are banned.
inline std::vector<double> distribution(const std::vector<double>& z, const SampleRow& r, int32_t limit) {
  std::vector<int32_t> ids(z.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return z[size_t(a)] > z[size_t(b)]; });
  std::erase_if(ids, [&](int32_t id) { return id >= limit || z[size_t(id)] == -INFINITY; });
  std::vector<double> p(z.size());
  if (ids.empty()) return p;
  if (r.temperature == 0) ids.erase(ids.begin() + 1, ids.end());
  if (r.top_k > 0) ids.resize(std::min(ids.size(), size_t(r.top_k)));
  const double scale = r.temperature == 0 ? 1 : 1 / double(r.temperature);
  std::vector<double> weight;
  for (int32_t id : ids) weight.push_back(std::exp((z[size_t(id)] - z[size_t(ids[0])]) * scale));
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  double more_probable = 0;
  size_t kept = 0;
  while (kept < ids.size() && (kept == 0 || (more_probable < double(r.top_p) * total && weight[kept] >= double(r.min_p) * weight[0])))
    more_probable += weight[kept++];
  weight.resize(kept);
  for (size_t i : typical(weight, r.typical_p < 1 ? double(r.typical_p) : 2.0)) p[size_t(ids[i])] = weight[i];
  const double left = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= left;
  return p;
}
inline std::vector<double> distribution(const std::vector<float>& logits, const SampleRow& r, int32_t limit) {
  return distribution(std::vector<double>(logits.begin(), logits.end()), r, limit);
}

}  // namespace neox::test::reference
