// SPDX-License-Identifier: Apache-2.0
// Draws: their distribution under every filter, and that a draw depends on its own row, seed, index and position alone.
#include <cstring>
#include <map>

#include "base/philox.h"
#include "sample_cases.h"

namespace neox::test {
namespace {

/// The value that chi-square with so many degrees of freedom exceeds once in a million (Wilson and Hilferty's approximation).
double chi_square_limit(double degrees) {
  const double v = 2 / (9 * degrees);
  return degrees * std::pow(1 - v + 4.753 * std::sqrt(v), 3);
}

/// Every id has its probability, and an id of probability 0 is never drawn.
void expect_distribution(const std::vector<int32_t>& draws, const std::vector<double>& p, const std::string& what) {
  std::vector<double> seen(p.size());
  for (int32_t id : draws) seen[size_t(id)]++;
  double chi = 0, rare_seen = 0, rare_expected = 0;
  int cells = 0;
  const auto add_cell = [&](double observed, double expected) { chi += (observed - expected) * (observed - expected) / expected, cells++; };
  for (size_t id = 0; id < p.size(); id++) {
    const double expected = p[id] * double(draws.size());
    if (p[id] == 0) {
      EXPECT_EQ(seen[id], 0) << what << ": id " << id << " is filtered out";
    } else if (expected < 10) {
      rare_seen += seen[id], rare_expected += expected;
    } else {
      add_cell(seen[id], expected);
    }
  }
  if (rare_expected >= 10) add_cell(rare_seen, rare_expected);
  if (cells > 1) { EXPECT_LE(chi, chi_square_limit(cells - 1)) << what; }
}

std::vector<int32_t> ids_of(const Sampled& s) {
  std::vector<int32_t> ids;
  for (const Sample& row : s.rows) ids.push_back(row.id);
  return ids;
}

/// Unequal probabilities without ties, and no cut of the filters below within rounding of a border.
const std::vector<float> kLogits = {1.3f, -0.7f, 2.1f, 0.2f,  -3.f,  1.9f, 0.9f,  -1.4f, 2.6f,
                                    0.5f, -0.1f, 1.1f, -2.2f, 0.35f, 1.6f, -0.4f, 0.7f};

struct Filter {
  float temperature, top_p, min_p;
  int32_t top_k, limit;
  std::vector<int32_t> bans = {};
  float typical_p = 1;
};
const std::vector<Filter> kFilters = {
    {1, 1, 0, 0, 17},
    {0.5f, 1, 0, 0, 17},
    {2.5f, 1, 0, 0, 17},
    {1, 1, 0, 5, 17},
    {1, 1, 0, 100, 17},
    {1, 0.6f, 0, 0, 17},
    {1, 0.05f, 0, 0, 17},
    {1, 1, 0.3f, 0, 17},
    {1, 1, 1, 0, 17},
    {0.7f, 0.8f, 0, 0, 17},
    {1.5f, 0.8f, 0, 6, 17},
    {2, 1, 0.25f, 9, 17},
    {1.2f, 0.9f, 0.2f, 8, 17},
    {1, 1, 0, 0, 11},
    {1, 0.7f, 0.1f, 7, 15, {8, 2, 0}},
    {1, 1, 0, 1, 17, {8}},
    {1, 1, 0, 0, 17, {}, 0.5f},
    {1, 1, 0, 0, 17, {}, 0.01f},
    {0.8f, 0.9f, 0.1f, 12, 16, {3}, 0.7f},
};

SampleRow row_of(const Filter& f) {
  return {.seed_lo = 11,
          .temperature = f.temperature,
          .top_p = f.top_p,
          .min_p = f.min_p,
          .typical_p = f.typical_p,
          .top_k = f.top_k,
          .edit = f.bans.empty() ? -1 : 0};
}

/// Whom the race of exponentials lets win among ids of probabilities p.
int32_t winner(const std::vector<double>& p, const SampleRow& r) {
  int32_t best = -1;
  double fastest = -1;
  for (size_t id = 0; id < p.size(); id++) {
    if (p[id] == 0) continue;
    const auto words = philox({uint32_t(id / 4), uint32_t(r.position), uint32_t(r.index), 0}, r.seed_lo, r.seed_hi);
    const double speed = p[id] / -std::log((words[id % 4] + 0.5) * 0x1p-32);
    if (speed > fastest) fastest = speed, best = int32_t(id);
  }
  return best;
}

/// Rows of a large vocabulary: even, peaked with ids far away, few distinct values, one value.
std::vector<float> shaped_logits(Random& random, int64_t vocab, int shape) {
  std::vector<float> v = random_logits(random, vocab, shape == 1 ? 4 : 2);
  if (shape == 1) v[7] = 12, v[8] = 11.5f, v[size_t(vocab) - 1] = 13, v[11] = -1e30f;
  if (shape == 2)
    for (float& x : v) x = std::round(x);
  if (shape == 3) std::fill(v.begin(), v.end(), 0.25f);
  return v;
}

}  // namespace

NEOX_OP_TEST(Draws);
NEOX_SAME_BITS_TEST(DrawBits);

TEST_P(Draws, HaveTheExactDistributionOfEveryFilterAndCombination) {
  for (size_t i = 0; i < kFilters.size(); i++) {
    SampleCall call = many_positions(kLogits, row_of(kFilters[i]), 200000);
    call.limit = kFilters[i].limit, call.ids = kFilters[i].bans;
    call.edit_rows = {{.bans_end = int32_t(call.ids.size())}};
    const std::vector<double> logits(kLogits.begin(), kLogits.end());
    const std::vector<double> p =
        reference::distribution(reference::edited(logits, call.edit_rows[0], {}, call.ids), call.rows[0], *call.limit);
    expect_distribution(ids_of(sample(*backend_, call)), p, "filter " + std::to_string(i));
  }
}

TEST_P(Draws, OfLargeVocabulariesAreWonByWhomTheRaceOfTheFilteredIdsLetsWin) {
  Random random(3);
  int32_t differ = 0, drawn = 0;
  for (int64_t vocab : {1000, 5003, 50432})
    for (int shape = 0; shape < 4; shape++)
      for (SampleRow r : {SampleRow{},
                          {.top_k = 40},
                          {.top_k = 3000},
                          {.top_p = 0.9f},
                          {.top_p = 0.02f},
                          {.min_p = 0.5f},
                          {.typical_p = 0.3f},
                          {.top_p = 0.9f, .top_k = 40},
                          {.top_p = 0.99f, .min_p = 0.1f, .typical_p = 0.9f, .top_k = 20000}}) {
        const std::vector<float> logits = shaped_logits(random, vocab, shape);
        r.temperature = 0.8f, r.seed_lo = 9;
        const SampleCall call = many_positions(logits, r, 16);
        const Sampled got = sample(*backend_, call);
        const std::vector<double> p = reference::distribution(logits, r, int32_t(vocab));
        for (size_t i = 0; i < 16; i++) differ += got.rows[i].id != winner(p, call.rows[i]), drawn++;
      }
  // Where two are as fast to within rounding, or an id lies within rounding of a filter's border, another may win.
  EXPECT_LE(differ, drawn / 500);
}

TEST_P(Draws, HaveTheExactDistributionOverSeedsAndOverIndices) {
  const std::vector<double> p = reference::distribution(kLogits, {.temperature = 1}, 17);
  const SampleCall positions = many_positions(kLogits, {.seed_lo = 3, .temperature = 1}, 200000);
  for (auto member : {&SampleRow::seed_lo, &SampleRow::seed_hi}) {
    SampleCall call = positions;
    for (SampleRow& r : call.rows) r.*member = uint32_t(r.position), r.position = 40;
    expect_distribution(ids_of(sample(*backend_, call)), p, "seeds");
  }
  SampleCall call = positions;
  for (SampleRow& r : call.rows) r.index = r.position, r.position = 40;
  expect_distribution(ids_of(sample(*backend_, call)), p, "indices");
}

TEST_P(Draws, OfNeighbouringPositionsIndicesAndSeedsAreIndependent) {
  const std::vector<float> logits = {0.f, 0.5f, 1.f, -0.5f};
  const std::vector<double> p = reference::distribution(logits, {.temperature = 1}, 4);
  std::vector<double> pairs;
  for (double a : p)
    for (double b : p) pairs.push_back(a * b);
  const SampleCall base = many_positions(logits, {.seed_lo = 5, .temperature = 1}, 12501);
  SampleCall over_index = base, over_seed = base, over_high = base;
  for (SampleRow& r : over_index.rows) r.index = r.position, r.position = 7;
  for (SampleRow& r : over_seed.rows) r.seed_lo = uint32_t(r.position), r.position = 7;
  for (SampleRow& r : over_high.rows) r.seed_hi = uint32_t(r.position), r.position = 7;
  for (const SampleCall& call : {base, over_index, over_seed, over_high}) {
    const std::vector<int32_t> ids = ids_of(sample(*backend_, call));
    std::vector<int32_t> joined;
    for (size_t i = 0; i + 1 < ids.size(); i++) joined.push_back(ids[i] * 4 + ids[i + 1]);
    expect_distribution(joined, pairs, "pairs");
  }
}

TEST_P(Draws, DoNotDependOnTheOtherRowsOfTheCall) {
  Random random(1);
  SampleCall call{.logits = {}, .rows = {}, .limit = {}};
  for (int32_t r = 0; r < 60; r++) {
    call.logits.push_back(random_logits(random, 131, 3));
    call.rows.push_back({.row = r,
                         .seed_lo = uint32_t(random.below(1000)),
                         .seed_hi = uint32_t(r % 3),
                         .index = r % 4,
                         .position = random.below(500),
                         .temperature = float(r % 5) * 0.4f,
                         .top_p = r % 2 ? 0.9f : 1.f,
                         .min_p = r % 7 ? 0.f : 0.05f,
                         .top_k = r % 3 ? 0 : 40});
  }
  const Sampled together = sample(*backend_, call);
  for (size_t r = 0; r < 60; r++) {
    SampleCall one{.logits = {call.logits[r]}, .rows = {call.rows[r]}, .limit = {}};
    one.rows[0].row = 0;
    const Sample alone = sample(*backend_, one).rows[0];
    EXPECT_EQ(alone.id, together.rows[r].id);
    EXPECT_EQ(alone.logprob, together.rows[r].logprob);
    EXPECT_EQ(alone.rank, together.rows[r].rank);
  }
}

TEST_P(Draws, OfOneRowNamedSeveralTimesDifferByIndex) {
  SampleCall call{.logits = {std::vector<float>(1000, 0.f)}, .rows = {}, .limit = {}};
  for (int32_t i = 0; i < 50; i++) call.rows.push_back({.row = 0, .seed_lo = 1, .index = i, .position = 3, .temperature = 1});
  std::map<int32_t, int> seen;
  for (int32_t id : ids_of(sample(*backend_, call))) seen[id]++;
  EXPECT_GT(seen.size(), 40u);
}

TEST_P(Draws, OfLargeVocabulariesLieWithinTheFilters) {
  Random random(2);
  const std::vector<float> logits = random_logits(random, 50277, 6);
  const std::vector<double> logprobs = reference::logprobs(logits);
  for (const Filter& f : kFilters) {
    SampleRow row = row_of(f);
    row.edit = -1;
    const SampleCall call = many_positions(logits, row, 60);
    const Sampled got = sample(*backend_, call);
    row.top_p = std::min(1.f, row.top_p + 1e-5f), row.min_p *= 1 - 1e-5f,
    row.typical_p = std::min(1.f, row.typical_p + 1e-5f);  // sums of so many terms differ in their last digits
    const std::vector<double> p = reference::distribution(logits, row, 50277);
    for (const Sample& s : got.rows) {
      EXPECT_GT(p[size_t(s.id)], 0);
      EXPECT_EQ(s.rank, reference::rank_of(logits, s.id));
      EXPECT_NEAR(s.logprob, logprobs[size_t(s.id)], 3e-5);
    }
  }
}

TEST_P(Draws, OfALargeVocabularyReachItsTail) {
  const SampleCall call = many_positions(std::vector<float>(50277, 0.25f), {.seed_lo = 9, .temperature = 1}, 2000);
  std::vector<int32_t> sixteenths;
  for (int32_t id : ids_of(sample(*backend_, call))) sixteenths.push_back(id * 16 / 50277);
  std::vector<double> p;
  for (int i = 0; i < 16; i++) {
    const auto first = [](int64_t s) { return (s * 50277 + 15) / 16; };
    p.push_back(double(first(i + 1) - first(i)) / 50277);
  }
  expect_distribution(sixteenths, p, "uniform");
}

TEST_P(Draws, ExtremeTemperaturesComeToTheirLimits) {
  for (int32_t id : ids_of(sample(*backend_, many_positions(kLogits, {.temperature = 1e-6f}, 200)))) EXPECT_EQ(id, 8);
  expect_distribution(ids_of(sample(*backend_, many_positions(kLogits, {.temperature = 1e6f}, 200000))), std::vector<double>(17, 1.0 / 17),
                      "hot");
}

TEST_P(Draws, AnImprobableIdIsDrawnWhenAllElseIsBanned) {
  std::vector<float> logits(20, 500.f);  // the banned ones: exp(500) overflows
  logits[13] = -500.f;
  std::vector<int32_t> bans;
  for (int32_t id = 0; id < 20; id++)
    if (id != 13) bans.push_back(id);
  SampleCall call{.logits = {logits},
                  .rows = {{.temperature = 1, .top_p = 0.9f, .min_p = 0.1f, .typical_p = 0.5f, .top_k = 3, .edit = 0}},
                  .limit = {},
                  .edit_rows = {{.bans_end = 19}},
                  .ids = bans};
  const Sampled got = sample(*backend_, call);
  EXPECT_EQ(got.rows[0].id, 13);
  EXPECT_EQ(got.rows[0].flags, 0);
}

TEST_P(DrawBits, AreThoseOfOneThreadAndOfEveryInstructionSet) {
  Random random(3);
  for (int64_t vocab : {17, 131, 50277}) {
    const std::vector<float> logits = random_logits(random, vocab, 4);
    for (const Filter& f : kFilters) {
      SampleRow row = row_of(f);
      row.edit = -1;
      SampleCall call = many_positions(logits, row, vocab > 1000 ? 20 : 300);
      call.top_n = 5;
      const Sampled a = sample(*backend_, call), b = sample(*baseline_, call);
      EXPECT_EQ(ids_of(a), ids_of(b));
      EXPECT_TRUE(std::memcmp(a.rows.data(), b.rows.data(), a.rows.size() * sizeof(Sample)) == 0);
      EXPECT_EQ(a.top_ids, b.top_ids);
      EXPECT_EQ(a.top_logprobs, b.top_logprobs);
    }
  }
}

}  // namespace neox::test
