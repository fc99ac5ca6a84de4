// SPDX-License-Identifier: Apache-2.0
// Sampling of one row: the edits of its request, HuggingFace's order of filters (temperature, top-k, top-p, min-p, typical-p), then a race
// of exponentials: the id with the largest p / E wins, E drawn for (seed, index, position, id). That is a draw from p, and it depends on
// neither the order nor the other rows.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/philox.h"
#include "cpu/cpu_backend_impl.h"
#include "cpu/logit_rows.h"

namespace neox {
namespace {

int32_t count_above(const float* logits, int64_t n, float least) {
  int32_t count = 0;  // of 32 bits, as the comparisons: a loop of vectors
  for (int64_t i = 0; i < n; i++) count += logits[i] > least;
  return count;
}

int32_t most_probable(const float* logits, int32_t limit) {  // -1 if all are banned
  int32_t best = -1;
  float most = kBanned;
  for (int32_t begin = 0; begin < limit; begin += kBlock) {
    const int32_t end = std::min(begin + kBlock, limit);
    if (count_above(logits + begin, end - begin, most) == 0) continue;  // as of nearly all blocks
    for (int32_t id = begin; id < end; id++)
      if (logits[id] > most) best = id, most = logits[id];
  }
  return best;
}

/// Uniform numbers in (0, 1) for ids in rising or any order; four ids share one Philox block.
class Uniform {
 public:
  explicit Uniform(const SampleRow& r) : row_(r) {}
  double operator()(int32_t id) {
    if (id / 4 != block_)
      words_ = philox({uint32_t(block_ = id / 4), uint32_t(row_.position), uint32_t(row_.index), 0}, row_.seed_lo, row_.seed_hi);
    return (words_[size_t(id % 4)] + 0.5) * 0x1p-32;
  }

 private:
  const SampleRow& row_;
  int32_t block_ = -1;
  std::array<uint32_t, 4> words_{};
};

int32_t race(const SampleRow& r, const std::vector<int32_t>& ids, const float* weight) {
  Uniform uniform(r);
  int32_t winner = ids[0];
  double best = -1;
  for (int32_t id : ids) {
    const double u = uniform(id), w = weight[id];
    if ((1 - u) * best > w) continue;  // E = -log u >= 1 - u: cannot win, and the logarithm is saved
    const double key = w / -std::log(u);
    if (key > best || (key == best && id < winner)) best = key, winner = id;
  }
  return winner;
}

/// The smallest set of ids, in the order of how near -log p is to the entropy, that holds a share `mass`; with all that are as near.
void keep_typical(float mass, const float* weight, std::vector<int32_t>& ids) {
  double total = 0, weighted = 0;
  for (int32_t id : ids) total += weight[id];
  const auto surprise = [&](int32_t id) { return std::log(total / weight[id]); };
  for (int32_t id : ids)
    if (weight[id] > 0) weighted += weight[id] / total * surprise(id);
  const auto distance = [&](int32_t id) { return float(std::fabs(surprise(id) - weighted)); };
  std::vector<std::pair<float, int32_t>> order;
  for (int32_t id : ids) order.emplace_back(distance(id), id);
  std::sort(order.begin(), order.end());
  double before = 0;
  size_t kept = 0;
  while (kept < order.size() && (kept == 0 || before < mass * total || order[kept].first == order[kept - 1].first))
    before += weight[order[kept++].second];
  ids.clear();
  for (size_t i = 0; i < kept; i++) ids.push_back(order[i].second);
}

/// What the filters leave of the ids below `limit`, of weights exp((logit - max) / temperature).
void filter(const SampleRow& r, int32_t limit, const float* logits, const float* weight, std::vector<int32_t>& ids) {
  const ByRank by_rank{logits};
  ids.clear();
  for (int32_t id = 0; id < limit; id++)
    if (logits[id] > kBanned) ids.push_back(id);
  if (r.top_k > 0 && size_t(r.top_k) < ids.size()) {
    std::nth_element(ids.begin(), ids.begin() + r.top_k - 1, ids.end(), by_rank);
    ids.resize(size_t(r.top_k));
  }
  if (r.top_p < 1.f && ids.size() > 1) {
    double total = 0;
    for (int32_t id : ids) total += weight[id];
    // Ids below this weight add up to less than 1 - top_p, so the nucleus ends before them, and few are left to sort.
    const double least = (1.0 - r.top_p) * total / double(ids.size());
    const auto most = *std::min_element(ids.begin(), ids.end(), by_rank);
    std::erase_if(ids, [&](int32_t id) { return weight[id] < least && id != most; });
    std::sort(ids.begin(), ids.end(), by_rank);
    double before = 0;
    size_t kept = 0;
    while (kept < ids.size() && (kept == 0 || before < r.top_p * total)) before += weight[ids[kept++]];
    ids.resize(kept);
  }
  if (r.min_p > 0.f) {
    float most = 0;
    for (int32_t id : ids) most = std::max(most, weight[id]);
    std::erase_if(ids, [&](int32_t id) { return weight[id] < r.min_p * most; });
  }
  if (r.typical_p < 1.f && ids.size() > 1) keep_typical(r.typical_p, weight, ids);
}

}  // namespace

void CpuBackend::sample_row(const SampleArgs& a, int32_t i, Scratch& scratch) const {
  const SampleRow& r = a.rows[i];
  if (r.row < 0) return;
  const float* logits = a.logits.row(r.row - a.first);
  const int64_t vocab = a.logits.cols;
  Sample& out = a.out[r.out];
  out = {};
  float most;
  if (!kernels_.largest(logits, vocab, &most)) {
    out.flags = kNonFinite;
    return;
  }
  const double log_total = double(most) + std::log(kernels_.exp_all(logits, vocab, most, 1.f, nullptr));
  if (r.top_n > 0) list_top(a, r, logits, log_total, scratch.ids);
  int32_t id = r.token;
  double processed = 0;
  if (id < 0) id = draw(a, r, logits, scratch, processed);
  if (id < 0) {
    out.flags = kAllBanned;
    return;
  }
  out.id = id;
  out.logprob = float(r.processed && r.token < 0 ? processed : logits[id] - log_total);
  out.rank = count_above(logits, vocab, logits[id]);
}

/// -1 if all are banned. logprob: of that id, where SampleRow::processed asks for it.
int32_t CpuBackend::draw(const SampleArgs& a, const SampleRow& r, const float* logits, Scratch& scratch, double& logprob) const {
  const int64_t vocab = a.logits.cols;
  const auto limit = int32_t(std::min<int64_t>(r.limit, vocab));
  if (r.edit >= 0) {
    edit(a.edits, a.edits.rows[r.edit], logits, scratch.edited.data(), vocab);
    logits = scratch.edited.data();
  }
  const int32_t best = most_probable(logits, limit);
  if (best < 0 || (r.temperature == 0.f && !r.processed)) return best;
  const float scale = r.temperature == 0.f ? 1.f : 1.f / r.temperature;
  // Relative to the most probable id that may be drawn, so that not all weights vanish where a banned one is far above.
  const double total = kernels_.exp_all(logits, limit, logits[best], scale, scratch.weights.data());
  int32_t id = best;
  if (r.temperature > 0.f) {
    filter(r, limit, logits, scratch.weights.data(), scratch.ids);
    id = race(r, scratch.ids, scratch.weights.data());
  }
  logprob = double(logits[id] - logits[best]) * scale - std::log(total);
  return id;
}

void CpuBackend::sample(const SampleArgs& a) {
  pool_.run([&](int thread) {
    for (int32_t i = int32_t(int64_t(a.count) * thread / pool_.size()); i < int32_t(int64_t(a.count) * (thread + 1) / pool_.size()); i++)
      sample_row(a, i, scratch_[size_t(thread)]);
  });
}

}  // namespace neox
