// SPDX-License-Identifier: Apache-2.0
// One model on several ranks, which are threads: what one rank gives, to the accuracy of another order of summation.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "neox/engine.h"
#include "tiny_model.h"

namespace neox::test {
namespace {

struct Layout {
  int32_t tensor, pipeline;
};
std::ostream& operator<<(std::ostream& out, const Layout& l) { return out << "tp" << l.tensor << "_pp" << l.pipeline; }

constexpr TinyModel kParallel{.layers = 5, .heads = 4, .nan_token = 77};
constexpr TinyModel kSequential{.layers = 5, .heads = 4, .nan_token = 77, .parallel_residual = false};

EngineConfig config_of(const TempFolder& folder, const Layout& layout) {
  EngineConfig c{.model = folder.path(), .device = "cpu", .kv_cache_memory = 4 << 20, .max_num_batched_tokens = 48};
  c.tensor_parallel_size = layout.tensor, c.pipeline_parallel_size = layout.pipeline;
  return c;
}

std::vector<int32_t> prompt_of(int length, int seed) {
  std::vector<int32_t> ids;
  for (int i = 0; i < length; i++) ids.push_back(1 + (i * 7 + seed * 13) % 70);
  return ids;
}

struct Text {
  std::vector<int32_t> ids;
  std::string text, error;
  FinishReason finish = FinishReason::none;
  bool operator==(const Text&) const = default;
};
using Texts = std::map<std::pair<uint64_t, int32_t>, Text>;  // (request, sample) ->

void gather(Texts& texts, const std::vector<Delta>& deltas) {
  for (const Delta& d : deltas) {
    Text& t = texts[{d.request_id, d.index}];
    t.ids.insert(t.ids.end(), d.token_ids.begin(), d.token_ids.end());
    t.text += d.text, t.error += d.error;
    if (d.finish != FinishReason::none) t.finish = d.finish;
  }
}

Texts run(Engine& engine) {
  Texts texts;
  while (engine.has_work()) gather(texts, engine.step());
  return texts;
}

Vocabulary letters(int32_t vocab) {
  Vocabulary v;
  for (int32_t i = 0; i < vocab; i++) v.bytes.push_back(std::string(1, char('a' + i % 26)));
  return v;
}

/// Every kind of request at once: greedy, sampled, of several samples, scored, with stop strings, with a common beginning.
void submit_all(Engine& engine) {
  for (int i = 0; i < 12; i++) {
    SamplingParams p{.max_tokens = 3 + i, .temperature = i % 3 ? 1.f : 0.f, .top_p = i % 2 ? 0.9f : 1.f, .seed = uint64_t(i)};
    p.ignore_eos = i % 4 != 0;
    if (i % 5 == 0) p.n = 3;
    if (i % 4 == 1) p.prompt_logprobs = 2, p.logprobs = 3;
    if (i % 6 == 2) p.stop = {"a", "qx"};
    if (i == 7) p.min_tokens = 5, p.stop_token_ids = {1, 2, 3};
    engine.submit(prompt_of(5 + 9 * i, i / 3), p);
  }
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); i++) difference += std::pow(double(a[i]) - b[i], 2), norm += std::pow(double(b[i]), 2);
  return std::sqrt(difference / norm);
}

}  // namespace

class Ranks : public testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Threads, Ranks,
                         testing::Values(Layout{1, 2}, Layout{1, 3}, Layout{2, 1}, Layout{2, 2}, Layout{2, 3}, Layout{4, 1}, Layout{4, 2},
                                         Layout{4, 3}),
                         testing::PrintToStringParamName());

TEST_P(Ranks, GiveTheLogitsOfOneRankTo1em5) {
  for (const TinyModel& model : {kParallel, kSequential}) {
    TempFolder folder;
    write_tiny_model(folder, model);
    Engine one(config_of(folder, {1, 1})), many(config_of(folder, GetParam()));
    constexpr int kBatch = 3, kLength = 70;  // in chunks of 48
    std::vector<int32_t> ids;
    for (int b = 0; b < kBatch; b++)
      for (int32_t id : prompt_of(kLength, b)) ids.push_back(id);
    std::vector<float> expected(ids.size() * size_t(model.vocab)), got(expected.size());
    one.forward(ids, kBatch, kLength, expected);
    many.forward(ids, kBatch, kLength, got);
    EXPECT_LT(relative_error(got, expected), 1e-5);
    EXPECT_EQ(many.info().world_size, GetParam().tensor * GetParam().pipeline);
  }
}

TEST_P(Ranks, GiveTheTextsOfOneRank) {
  for (const TinyModel& model : {kParallel, kSequential}) {
    TempFolder folder;
    write_tiny_model(folder, model);
    Engine one(config_of(folder, {1, 1})), many(config_of(folder, GetParam()));
    for (Engine* e : {&one, &many}) e->set_vocabulary(letters(model.vocab - 3)), submit_all(*e);
    EXPECT_TRUE(run(many) == run(one));
    for (Engine* e : {&one, &many}) submit_all(*e);  // again, now from the prefix cache
    EXPECT_TRUE(run(many) == run(one));
    EXPECT_GT(many.stats().tokens_cached, 0);
    EXPECT_EQ(many.stats().blocks_used, 0);
  }
}

TEST_P(Ranks, GiveTheSameTextsOutOfPages) {
  TempFolder folder;
  write_tiny_model(folder, kParallel);
  EngineConfig tight = config_of(folder, GetParam());
  Engine one(config_of(folder, {1, 1}));
  for (tight.kv_cache_memory = 1 << 16;; tight.kv_cache_memory += 1 << 13) {  // bytes of each rank's share
    try {
      Engine probe(tight);
      if (probe.info().num_blocks >= 16) break;
    } catch (const Error& e) { ASSERT_EQ(e.kind, ErrorKind::memory); }
  }
  Engine many(tight);
  for (Engine* e : {&one, &many}) e->set_vocabulary(letters(kParallel.vocab)), submit_all(*e);
  EXPECT_TRUE(run(many) == run(one));
  EXPECT_GT(many.stats().preemptions, 0);
  EXPECT_EQ(many.stats().blocks_used, 0);
}

TEST_P(Ranks, CancelEndsARequestAloneAndNothingIsLeftBehind) {
  TempFolder folder;
  write_tiny_model(folder, kParallel);
  Engine engine(config_of(folder, GetParam()));
  std::vector<uint64_t> ids;
  for (int i = 0; i < 6; i++) ids.push_back(engine.submit(prompt_of(30, i), {.max_tokens = 40, .temperature = 0, .ignore_eos = true}));
  Texts texts;
  for (int i = 0; i < 5; i++) gather(texts, engine.step());
  engine.cancel(ids[1]), engine.cancel(ids[4]);
  while (engine.has_work()) gather(texts, engine.step());
  for (int i = 0; i < 6; i++) {
    const Text& t = texts.at({ids[size_t(i)], 0});
    EXPECT_EQ(t.finish, i == 1 || i == 4 ? FinishReason::cancelled : FinishReason::length);
    EXPECT_EQ(t.ids.size() == 40, t.finish == FinishReason::length);
  }
  EXPECT_EQ(engine.stats().blocks_used, 0);
}

TEST_P(Ranks, NanFailsItsRequestAloneAndNamesTheEmbedding) {
  TempFolder folder;
  write_tiny_model(folder, kParallel);
  Engine one(config_of(folder, {1, 1})), many(config_of(folder, GetParam()));
  for (Engine* e : {&one, &many})
    for (int i = 0; i < 5; i++) {
      auto prompt = prompt_of(20 + 15 * i, i);
      if (i == 2) prompt[10] = kParallel.nan_token;
      e->submit(prompt, {.max_tokens = 6, .temperature = 0, .ignore_eos = true});
    }
  const Texts texts = run(many);
  EXPECT_TRUE(texts == run(one));
  EXPECT_NE(texts.at({3, 0}).error.find("it first appeared in the embedding"), std::string::npos) << texts.at({3, 0}).error;
}

TEST_P(Ranks, NanNamesTheLayerOnWhicheverStageItIs) {
  for (int32_t layer = 0; layer < 5; layer++) {
    TempFolder folder;
    TinyModel model = kParallel;
    model.nan_layer = layer;
    write_tiny_model(folder, model);
    Engine engine(config_of(folder, GetParam()));
    engine.submit(prompt_of(60, 1), {.max_tokens = 2});
    const Texts texts = run(engine);
    EXPECT_NE(texts.at({1, 0}).error.find("layer " + std::to_string(layer)), std::string::npos) << texts.at({1, 0}).error;
  }
}

TEST_P(Ranks, GiveTheSameTextsWithStepsOneByOneAndAhead) {
  TempFolder folder;
  write_tiny_model(folder, kParallel);
  Texts texts[2];
  for (bool ahead : {false, true}) {
    EngineConfig c = config_of(folder, GetParam());
    c.async_scheduling = ahead;
    Engine engine(c);
    engine.set_vocabulary(letters(kParallel.vocab));
    submit_all(engine);
    texts[ahead] = run(engine);
  }
  EXPECT_TRUE(texts[0] == texts[1]);
}

namespace {
std::string refusal(const EngineConfig& c, ErrorKind kind) {
  try {
    Engine engine(c);
    return "";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, kind) << e.what();
    return e.what();
  }
}
}  // namespace

TEST(RanksRefuse, WhatDoesNotDivideAndWhatIsMissingWithTheKindOfOneRank) {
  TempFolder folder;
  write_tiny_model(folder, kParallel);
  EXPECT_NE(refusal(config_of(folder, {3, 1}), ErrorKind::invalid).find("tensor_parallel_size is 3, expected a divisor of the model's 4"),
            std::string::npos);
  EXPECT_NE(refusal(config_of(folder, {1, 6}), ErrorKind::invalid).find("expected at most the model's 5 layers"), std::string::npos);
  EXPECT_NE(refusal(config_of(folder, {0, 1}), ErrorKind::invalid).find("tensor_parallel_size is 0"), std::string::npos);
  EngineConfig c = config_of(folder, {2, 2});
  c.comm_timeout = 0;
  EXPECT_NE(refusal(c, ErrorKind::invalid).find("comm_timeout is 0"), std::string::npos);
  folder.remove("model.safetensors");
  EXPECT_NE(refusal(config_of(folder, {2, 2}), ErrorKind::not_found), "");
}

TEST(RanksRefuse, ToBeFollowedByRankZeroItself) {
  TempFolder folder;
  write_tiny_model(folder, kParallel);
  Engine engine(config_of(folder, {2, 1}));
  EXPECT_THROW(engine.follow(), Error);
  engine.release("");  // threads follow until the end
  engine.submit(prompt_of(5, 1), {.max_tokens = 2, .ignore_eos = true});
  EXPECT_EQ(run(engine).size(), 1u);
}

TEST(RanksPipeline, SplitsRequestsAmongItsStagesAndKeepsThemAllBusy) {
  TempFolder folder;
  write_tiny_model(folder, kParallel);
  Engine engine(config_of(folder, {1, 2}));
  for (int i = 0; i < 8; i++) engine.submit(prompt_of(4, i), {.max_tokens = 10, .temperature = 0, .ignore_eos = true});
  run(engine);
  EXPECT_EQ(engine.stats().steps, 2 * 10);  // two micro-batches of four
}

}  // namespace neox::test
