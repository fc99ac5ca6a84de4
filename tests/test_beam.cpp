// SPDX-License-Identifier: Apache-2.0
// beam_candidates: the best continuations of each row, with and without edits.
#include "sample_cases.h"

namespace neox::test {
namespace {

struct BeamCall {
  std::vector<std::vector<float>> logits;  // [rows][vocab]
  std::vector<BeamRow> rows;
  std::vector<EditRow> edit_rows = {};
  std::vector<Edit> edits = {};
  std::vector<int32_t> ids = {};
  int32_t candidates = 0;
};
struct Found {
  std::vector<Candidate> candidates;
  std::vector<Sample> samples;
  std::vector<int32_t> top_ids;
};
constexpr int32_t kTop = 3;

Found beam_candidates(Backend& backend, const BeamCall& call) {
  const auto vocab = int64_t(call.logits[0].size());
  Matrix logits(int64_t(call.logits.size()), vocab);
  for (size_t r = 0; r < call.logits.size(); r++) std::copy(call.logits[r].begin(), call.logits[r].end(), logits.row(int64_t(r)));
  const DeviceMatrix device_logits(backend, logits, DType::f32, vocab % 3);
  const DeviceList<BeamRow> rows(backend, call.rows);
  const DeviceList<EditRow> edit_rows(backend, call.edit_rows);
  const DeviceList<Edit> edits(backend, call.edits);
  const DeviceList<int32_t> ids(backend, call.ids), top_ids(backend, std::vector<int32_t>(call.rows.size() * kTop, -77));
  const DeviceList<float> top_logprobs(backend, std::vector<float>(call.rows.size() * kTop, NAN));
  const DeviceList<Sample> out(backend, std::vector<Sample>(call.rows.size(), Sample{.flags = -77}));
  const DeviceList<Candidate> candidates(backend, std::vector<Candidate>(size_t(call.candidates), Candidate{.id = -77}));
  backend.beam_candidates({.logits = device_logits,
                           .rows = rows.data(),
                           .count = int32_t(call.rows.size()),
                           .edits = {edit_rows.data(), int32_t(call.edit_rows.size()), edits.data(), ids.data()},
                           .candidates = candidates.data(),
                           .out = out.data(),
                           .top_ld = kTop,
                           .top_ids = top_ids.data(),
                           .top_logprobs = top_logprobs.data()});
  return {candidates.values(), out.values(), top_ids.values()};
}

}  // namespace

NEOX_OP_TEST(BeamOp);

TEST_P(BeamOp, CandidatesAreTheBestOfTheEditedLogProbsWithTheModelsOwnBesideThem) {
  Random random(1);
  for (int32_t vocab : {7, 131, 4096, 50277}) {
    BeamCall call;
    for (int32_t r = 0; r < 16; r++) {
      call.logits.push_back(random_logits(random, vocab));
      const int32_t count = std::array{2, 8, 65, 160}[size_t(r % 4)], begin = int32_t(call.edits.size());
      call.rows.push_back({.row = r, .out = r, .limit = vocab - 1, .first = call.candidates, .count = count, .top_n = r % 2 ? kTop : 0});
      call.candidates += count;
      if (r % 3 == 0) continue;
      for (int32_t id = 0; id < vocab; id += 1 + random.below(9))
        call.edits.push_back({.id = id, .bias = float(random.uniform(-3, 3)), .factor = float(random.uniform(0.7, 2)), .offset = -0.5f});
      const auto ban = int32_t(call.ids.size());
      for (int32_t i = 0; i < r; i++) call.ids.push_back(random.below(vocab));
      call.rows.back().edit = int32_t(call.edit_rows.size());
      call.edit_rows.push_back({.row = r,
                                .edits_begin = begin,
                                .edits_end = int32_t(call.edits.size()),
                                .bans_begin = ban,
                                .bans_end = int32_t(call.ids.size()),
                                .logprobs = 1});
    }
    const Found got = beam_candidates(*backend_, call);
    for (size_t r = 0; r < 16; r++) {
      const BeamRow& row = call.rows[r];
      const std::vector<double> raw = reference::logprobs(call.logits[r]);
      const EditRow none{};
      std::vector<double> z = reference::edited(raw, row.edit < 0 ? none : call.edit_rows[size_t(row.edit)], call.edits, call.ids);
      z.resize(size_t(vocab) - 1);
      std::vector<double> best = z;
      std::sort(best.begin(), best.end(), std::greater<>());
      std::vector<bool> seen(z.size());
      for (int32_t k = 0; k < row.count; k++) {
        const Candidate& c = got.candidates[size_t(row.first + k)];
        if (k >= vocab - 1 || best[size_t(k)] == -INFINITY) {
          EXPECT_EQ(c.id, -1);
          continue;
        }
        ASSERT_GE(c.id, 0);
        ASSERT_LT(c.id, vocab - 1);
        EXPECT_FALSE(seen[size_t(c.id)]);
        seen[size_t(c.id)] = true;
        EXPECT_NEAR(c.score, z[size_t(c.id)], 1e-5 * (1 + std::fabs(c.score)));
        EXPECT_NEAR(c.score, best[size_t(k)], 1e-5 * (1 + std::fabs(c.score)));
        EXPECT_NEAR(c.logprob, raw[size_t(c.id)], 1e-5 * (1 + std::fabs(c.logprob)));
        EXPECT_EQ(c.rank, reference::rank_of(call.logits[r], c.id));
      }
      EXPECT_EQ(got.samples[r].flags, 0);
      for (int32_t k = 0; k < kTop; k++)
        EXPECT_EQ(got.top_ids[r * kTop + size_t(k)], row.top_n ? reference::ranking(call.logits[r])[size_t(k)] : -77);
    }
  }
}

TEST_P(BeamOp, TiesGoToTheLowerIdPaddingWritesNothingAndRowsThatAreNotFiniteAreFlagged) {
  std::vector<float> ties(300, 1.f), bad(300, 0.f);
  ties[299] = 2, bad[17] = NAN;
  const BeamCall call{.logits = {ties, bad},
                      .rows = {{.row = -1, .out = 0},
                               {.row = 0, .out = 1, .limit = 300, .count = 4},
                               {.row = 1, .out = 2, .limit = 300, .first = 4, .count = 2}},
                      .candidates = 6};
  const Found got = beam_candidates(*backend_, call);
  EXPECT_EQ(got.samples[0].flags, -77);
  EXPECT_EQ(got.samples[1].flags, 0);
  EXPECT_EQ(got.samples[2].flags, kNonFinite);
  for (int32_t k = 0; k < 4; k++) EXPECT_EQ(got.candidates[size_t(k)].id, (std::array{299, 0, 1, 2}[size_t(k)]));
}

}  // namespace neox::test
