// SPDX-License-Identifier: Apache-2.0
// sample: greedy choice, given tokens, log-probs and ranks, flags and bans. Draws are in test_sample_draws.cpp.
#include "sample_cases.h"

namespace neox::test {
namespace {

constexpr int64_t kVocabs[] = {1, 2, 7, 16, 131, 257, 4096, 50277};

void expect_near(double got, double want) { EXPECT_NEAR(got, want, 2e-6 * (1 + std::fabs(want))); }

}  // namespace

NEOX_OP_TEST(SampleOp);

TEST_P(SampleOp, GreedyTakesTheMostProbableId) {
  Random random(1);
  for (int64_t vocab : kVocabs) {
    SampleCall call;
    for (int32_t r = 0; r < 17; r++) call.logits.push_back(random_logits(random, vocab)), call.rows.push_back({.row = r});
    const Sampled got = sample(*backend_, call);
    for (size_t r = 0; r < 17; r++) {
      EXPECT_EQ(got.rows[r].id, reference::ranking(call.logits[r])[0]);
      EXPECT_EQ(got.rows[r].rank, 0);
      EXPECT_EQ(got.rows[r].flags, 0);
      expect_near(got.rows[r].logprob, reference::logprobs(call.logits[r])[size_t(got.rows[r].id)]);
    }
  }
}

TEST_P(SampleOp, GreedyTiesGoToTheLowestId) {
  std::vector<float> logits(300, -1.f);
  for (size_t id : {17, 40, 255, 256, 299}) logits[id] = 2.f;
  const Sampled got = sample(*backend_, {.logits = {logits, std::vector<float>(300, 0.f)}, .rows = {{.row = 0}, {.row = 1}}, .limit = {}});
  EXPECT_EQ(got.rows[0].id, 17);
  EXPECT_EQ(got.rows[1].id, 0);
}

TEST_P(SampleOp, AGivenTokenIsScoredAndNotDrawn) {
  Random random(2);
  for (int64_t vocab : kVocabs) {
    SampleCall call{.logits = {random_logits(random, vocab)}, .rows = {}, .limit = {}};
    for (int32_t i = 0; i < 20; i++)
      call.rows.push_back({.row = 0, .token = random.below(int32_t(vocab)), .temperature = float(i % 2), .top_k = 1});
    const Sampled got = sample(*backend_, call);
    for (size_t i = 0; i < 20; i++) {
      EXPECT_EQ(got.rows[i].id, call.rows[i].token);
      EXPECT_EQ(got.rows[i].rank, reference::rank_of(call.logits[0], call.rows[i].token));
      EXPECT_EQ(got.rows[i].flags, 0);
      expect_near(got.rows[i].logprob, reference::logprobs(call.logits[0])[size_t(call.rows[i].token)]);
    }
  }
}

TEST_P(SampleOp, ARankCountsStrictlyMoreProbableIds) {
  const std::vector<float> logits = {1, 3, 3, 2, 3, 1};
  SampleCall call{.logits = {logits}, .rows = {}, .limit = {}};
  for (int32_t id = 0; id < 6; id++) call.rows.push_back({.row = 0, .token = id});
  const Sampled got = sample(*backend_, call);
  for (size_t id = 0; id < 6; id++) EXPECT_EQ(got.rows[id].rank, (std::vector<int32_t>{4, 0, 0, 3, 0, 4})[id]);
}

TEST_P(SampleOp, LogProbsHoldForLargeAndForDistantLogits) {
  Random random(3);
  for (double spread : {1e-3, 1.0, 80.0, 1e4}) {
    SampleCall call{.logits = {random_logits(random, 257, spread)}, .rows = {}, .limit = {}};
    for (float& x : call.logits[0]) x += 1000;
    for (int32_t id = 0; id < 257; id++) call.rows.push_back({.row = 0, .token = id});
    const Sampled got = sample(*backend_, call);
    const std::vector<double> want = reference::logprobs(call.logits[0]);
    for (size_t id = 0; id < 257; id++) expect_near(got.rows[id].logprob, want[id]);
  }
}

TEST_P(SampleOp, TheMostProbableIdsAreListedInOrderWithTiesByTheLowerId) {
  Random random(4);
  for (int64_t vocab : {20, 131, 50277})
    for (int32_t top_n : {1, 5, 20}) {
      SampleCall call{.logits = {random_logits(random, vocab), random_logits(random, vocab)}, .rows = {}, .limit = {}, .top_n = top_n};
      for (float& x : call.logits[1]) x = std::round(x);  // many ties
      for (int32_t r = 0; r < 5; r++) call.rows.push_back({.row = r % 2, .temperature = float(r)});
      const Sampled got = sample(*backend_, call);
      for (size_t r = 0; r < 5; r++) {
        const std::vector<int32_t> ids = reference::ranking(call.logits[r % 2]);
        const std::vector<double> logprobs = reference::logprobs(call.logits[r % 2]);
        for (size_t k = 0; k < size_t(top_n); k++) {
          EXPECT_EQ(got.top_ids[r * size_t(top_n) + k], ids[k]);
          expect_near(got.top_logprobs[r * size_t(top_n) + k], logprobs[size_t(ids[k])]);
        }
      }
    }
}

TEST_P(SampleOp, ARowThatIsNotFiniteGivesIdZeroAndItsFlagAndOthersGoOn) {
  Random random(5);
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (size_t at : {0, 100, 255, 256, 256 + 17}) {
      SampleCall call;
      for (int32_t r = 0; r < 3; r++) call.logits.push_back(random_logits(random, 274));
      call.logits[1][at] = bad;
      for (int32_t r : {0, 1, 2, 1, 1}) call.rows.push_back({.row = r});
      call.rows[3].temperature = 1, call.rows[4].token = 9;
      call.limit = 256;  // even where the value itself is masked
      call.top_n = 2;
      const Sampled got = sample(*backend_, call);
      for (size_t r : {1, 3, 4}) {
        EXPECT_EQ(got.rows[r].id, 0);
        EXPECT_EQ(got.rows[r].flags, kNonFinite) << bad << " at " << at;
      }
      for (size_t r : {0, 2}) {
        EXPECT_EQ(got.rows[r].flags, 0);
        EXPECT_EQ(got.top_ids[2 * r], reference::ranking(call.logits[r])[0]);
      }
    }
}

TEST_P(SampleOp, BannedIdsAreNotTakenButStayInTheLogProbs) {
  Random random(6);
  SampleCall call{.logits = {random_logits(random, 131), random_logits(random, 131)}, .rows = {}, .limit = {}};
  const std::vector<int32_t> first = reference::ranking(call.logits[0]);
  call.logits.push_back(call.logits[0]);
  call.ids = {5, first[0], first[1], 7};
  call.edit_rows = {{.row = -1}, {.row = 2, .bans_begin = 1, .bans_end = 2}, {.row = 0, .bans_begin = 1, .bans_end = 3}};
  call.rows = {{.row = 0, .edit = 2}, {.row = 1}, {.row = 2, .edit = 1}, {.row = 0}};
  for (float temperature : {0.f, 1e-3f}) {
    for (SampleRow& r : call.rows) r.temperature = temperature;
    const Sampled got = sample(*backend_, call);
    EXPECT_EQ(got.rows[0].id, first[2]);
    EXPECT_EQ(got.rows[0].rank, 2);
    expect_near(got.rows[0].logprob, reference::logprobs(call.logits[0])[size_t(first[2])]);
    EXPECT_EQ(got.rows[1].id, reference::ranking(call.logits[1])[0]);
    EXPECT_EQ(got.rows[2].id, first[1]);
    EXPECT_EQ(got.rows[3].id, first[0]);
  }
}

TEST_P(SampleOp, IdsAtOrPastTheLimitAreNotTakenButStayInTheLogProbs) {
  std::vector<float> logits(40, 0.f);
  logits[39] = 5, logits[30] = 4, logits[29] = 3;
  for (float temperature : {0.f, 1e-3f}) {
    const Sampled got = sample(*backend_, {.logits = {logits}, .rows = {{.row = 0, .temperature = temperature}}, .limit = 30, .top_n = 1});
    EXPECT_EQ(got.rows[0].id, 29);
    EXPECT_EQ(got.rows[0].rank, 2);
    expect_near(got.rows[0].logprob, reference::logprobs(logits)[29]);
    EXPECT_EQ(got.top_ids[0], 39);  // what the model finds most probable
  }
}

TEST_P(SampleOp, WhereAllIdsAreBannedTheRowIsFlagged) {
  Random random(7);
  SampleCall call{.logits = {}, .rows = {}, .limit = 3, .ids = {2, 1, 0, 4}};
  const std::vector<float> logits = random_logits(random, 5);
  call.logits = {logits, logits, logits};
  call.edit_rows = {{.row = 0, .bans_end = 3}, {.row = 1, .bans_end = 4}, {.row = 2, .bans_end = 2}};
  call.rows = {{.row = 0, .edit = 0}, {.row = 1, .temperature = 1, .edit = 1}, {.row = 2, .edit = 2}, {.row = 1, .token = 4, .edit = 1}};
  const Sampled got = sample(*backend_, call);
  for (size_t r : {0, 1}) {
    EXPECT_EQ(got.rows[r].id, 0);
    EXPECT_EQ(got.rows[r].flags, kAllBanned);
  }
  EXPECT_EQ(got.rows[2].id, 0);
  EXPECT_EQ(got.rows[2].flags, 0);
  EXPECT_EQ(got.rows[3].id, 4);  // a given token is scored, banned or not
  EXPECT_EQ(got.rows[3].flags, 0);
}

TEST_P(SampleOp, EditedRowsAreDrawnFromWhatTheReferenceMakesOfThemAndScoredAsTheyWere) {
  Random random(9);
  for (int32_t vocab : {131, 4096, 50277})
    for (float temperature : {0.f, 1e-3f}) {
      SampleCall call{.logits = {}, .rows = {}, .limit = vocab - 2};
      for (int32_t r = 0; r < 24; r++) {
        call.logits.push_back(random_logits(random, vocab));
        EditRow e{.row = r, .edits_begin = int32_t(call.edits.size()), .allowed_begin = int32_t(call.ids.size())};
        for (int32_t i = 0; i < vocab / 2 && r % 3 == 0; i++) call.ids.push_back(random.below(vocab));
        e.allowed_end = e.bans_begin = int32_t(call.ids.size());
        for (int32_t i = 0; i < (r % 5) * 9; i++) call.ids.push_back(random.below(vocab));
        e.bans_end = int32_t(call.ids.size());
        for (int32_t id = random.below(9); id < vocab && r % 4 > 0; id += 1 + random.below(r % 4 == 1 ? 3 : vocab / 7))
          call.edits.push_back({.id = id,
                                .bias = float(random.uniform(-9, 9)),
                                .factor = r % 2 ? 1.f : float(random.uniform(0.5, 3)),
                                .offset = float(random.uniform(-4, 4))});
        e.edits_end = int32_t(call.edits.size());
        call.edit_rows.push_back(e);
        call.rows.push_back({.row = r, .temperature = temperature, .edit = r});
        call.rows.push_back({.row = r, .temperature = temperature});  // the same row as it is
      }
      random.shuffle(call.edit_rows);
      for (size_t i = 0; i < call.edit_rows.size(); i++) call.rows[2 * size_t(call.edit_rows[i].row)].edit = int32_t(i);
      const Sampled got = sample(*backend_, call);
      for (size_t r = 0; r < 24; r++) {
        const std::vector<double> raw(call.logits[r].begin(), call.logits[r].end());
        for (size_t i : {2 * r, 2 * r + 1}) {
          const EditRow none{}, &e = call.rows[i].edit < 0 ? none : call.edit_rows[size_t(call.rows[i].edit)];
          std::vector<double> z = reference::edited(raw, e, call.edits, call.ids);
          const double most = *std::max_element(z.begin(), z.end() - 2);
          ASSERT_EQ(got.rows[i].flags, 0);
          EXPECT_GE(z[size_t(got.rows[i].id)], most - 2e-2 * (temperature > 0) - 1e-5) << "row " << r;
          expect_near(got.rows[i].logprob, reference::logprobs(call.logits[r])[size_t(got.rows[i].id)]);
          EXPECT_EQ(got.rows[i].rank, reference::rank_of(call.logits[r], got.rows[i].id));
        }
      }
    }
}

TEST_P(SampleOp, ProcessedLogProbsAreThoseAfterEditsBansTheLimitAndTemperatureButBeforeFilters) {
  Random random(10);
  for (int32_t vocab : {5, 131, 50277})
    for (float temperature : {0.f, 0.5f, 3.f}) {
      SampleCall call{.logits = {random_logits(random, vocab)}, .rows = {}, .limit = vocab - 1, .ids = {0, 2}};
      call.edits = {{.id = 1, .bias = 2, .factor = 1.5f, .offset = -0.5f}};
      call.edit_rows = {{.row = 0, .edits_end = 1, .bans_end = 2}};
      for (int32_t i = 0; i < 9; i++)
        call.rows.push_back({.row = 0, .position = i, .temperature = temperature, .top_k = i % 3, .edit = i % 2 - 1, .processed = 1});
      call.rows.push_back({.row = 0, .token = 1, .temperature = temperature, .processed = 1});  // what is given is scored as it was
      const Sampled got = sample(*backend_, call);
      const std::vector<double> raw(call.logits[0].begin(), call.logits[0].end());
      for (size_t i = 0; i < 9; i++) {
        std::vector<double> z = reference::edited(raw, call.rows[i].edit < 0 ? EditRow{} : call.edit_rows[0], call.edits, call.ids);
        z.pop_back();
        double total = 0;
        const double scale = temperature == 0 ? 1 : 1 / double(temperature), most = *std::max_element(z.begin(), z.end());
        for (double x : z) total += std::exp((x - most) * scale);
        expect_near(got.rows[i].logprob, (z[size_t(got.rows[i].id)] - most) * scale - std::log(total));
      }
      expect_near(got.rows[9].logprob, reference::logprobs(call.logits[0])[1]);
    }
}

TEST_P(SampleOp, ARowMayBeNamedSeveralTimes) {
  Random random(8);
  SampleCall call{.logits = {random_logits(random, 131), random_logits(random, 131)}, .rows = {}, .limit = {}};
  for (int32_t i = 0; i < 40; i++) call.rows.push_back({.row = i % 3 == 0});
  const Sampled got = sample(*backend_, call);
  for (size_t i = 0; i < 40; i++) EXPECT_EQ(got.rows[i].id, reference::ranking(call.logits[i % 3 == 0])[0]);
}

TEST_P(SampleOp, PaddingRowsWriteNothing) {
  const Sampled got = sample(*backend_, {.logits = {{1.f, 3.f, 2.f}}, .rows = {{.row = -1}, {.row = 0}, {.row = -1}}, .limit = {}});
  EXPECT_EQ(got.rows[0].id, -77);
  EXPECT_EQ(got.rows[1].id, 1);
  EXPECT_EQ(got.rows[2].id, -77);
}

TEST_P(SampleOp, NoRowsAreNoWork) { sample(*backend_, {.logits = {{1.f, 2.f}}, .rows = {}, .limit = {}}); }

}  // namespace neox::test
