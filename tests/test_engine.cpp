// SPDX-License-Identifier: Apache-2.0
// The engine as a C++ program has it: the public interface alone, on a tiny model, from several threads.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "neox/engine.h"
#include "tiny_model.h"

namespace neox::test {
namespace {

constexpr int kThreads = 8;
constexpr TinyModel kModel{.nan_token = 77};

/// What one sample of a request gave, all deltas together.
struct Outcome {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  std::string text, error;
  FinishReason finish = FinishReason::none;
  int ends = 0;

  bool operator==(const Outcome&) const = default;
};
using Outcomes = std::map<std::pair<uint64_t, int32_t>, Outcome>;  // (request, sample) ->

void gather(Outcomes& outcomes, const std::vector<Delta>& deltas) {
  for (const Delta& d : deltas) {
    Outcome& o = outcomes[{d.request_id, d.index}];
    EXPECT_EQ(o.ends, 0) << "request " << d.request_id << " goes on after its end";
    o.ids.insert(o.ids.end(), d.token_ids.begin(), d.token_ids.end());
    for (const TokenLogprob& l : d.logprobs) o.logprobs.push_back(l.logprob);
    o.text += d.text, o.error += d.error;
    if (d.finish != FinishReason::none) o.finish = d.finish, o.ends++;
  }
}

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams params;
};

/// Prompts with common beginnings, every kind of draw.
std::vector<Request> make_requests(int count) {
  std::mt19937 random(5);
  const auto draw = [&](int n) { return int32_t(random() % unsigned(n)); };
  std::vector<Request> out;
  for (int i = 0; i < count; i++) {
    Request r;
    r.prompt.resize(size_t(1 + draw(60)));
    for (size_t p = 0; p < r.prompt.size(); p++) r.prompt[p] = p < 32 ? int32_t(1 + p) : 1 + draw(70);
    r.params = {.max_tokens = 1 + draw(12), .temperature = i % 3 ? 1.f : 0.f, .top_p = i % 2 ? 0.9f : 1.f, .seed = uint64_t(i)};
    r.params.ignore_eos = true;
    if (i % 5 == 0) r.params.n = 3;
    if (i % 4 == 0) r.params.prompt_logprobs = 1;
    out.push_back(r);
  }
  return out;
}

/// With steps planned one after another, or ahead.
class EngineTest : public testing::TestWithParam<bool> {
 protected:
  EngineTest() { write_tiny_model(folder_, kModel); }

  EngineConfig config(bool ahead = GetParam()) const {
    EngineConfig c{.model = folder_.path(), .device = "cpu", .kv_cache_memory = 60 * kModel.page_bytes(), .num_threads = 2};
    c.async_scheduling = ahead;
    return c;
  }
  /// Steps until nothing is open.
  static Outcomes drain(Engine& engine) {
    Outcomes out;
    while (engine.has_work()) gather(out, engine.step());
    return out;
  }
  /// By sample: what a request gives with nothing beside it.
  std::map<int32_t, Outcome> alone(const Request& r) {
    if (!reference_) reference_ = std::make_unique<Engine>(config(false));
    reference_->submit(r.prompt, r.params);
    std::map<int32_t, Outcome> out;
    for (const auto& [key, outcome] : drain(*reference_)) out[key.second] = outcome;
    return out;
  }
  void expect_as_alone(const Outcomes& outcomes, uint64_t id, const Request& r) {
    for (const auto& [index, expected] : alone(r)) {
      const auto found = outcomes.find({id, index});
      ASSERT_NE(found, outcomes.end()) << "request " << id << " sample " << index;
      EXPECT_EQ(found->second, expected) << "request " << id << " sample " << index;
    }
  }

  TempFolder folder_;
  std::unique_ptr<Engine> reference_;
};

/// The Error that `body` throws.
template <class Body> Error error_of(Body body) {
  try {
    body();
  } catch (const Error& e) { return e; }
  ADD_FAILURE() << "nothing was thrown";
  return {ErrorKind::runtime, ""};
}

TEST_P(EngineTest, RequestsFromEightThreadsEndOnceAndAsTheyDoAlone) {
  Engine engine(config());
  const auto requests = make_requests(64);
  std::mutex mutex;
  std::map<uint64_t, size_t> submitted;
  std::atomic<int> working{kThreads};
  const auto work = [&](size_t first) {
    for (size_t i = first; i < requests.size(); i += kThreads) {
      const uint64_t id = engine.submit(requests[i].prompt, requests[i].params);
      {
        const std::lock_guard lock(mutex);
        submitted[id] = i;
      }
      if (i % 7 == 0) engine.cancel(id);
      engine.cancel(1000000 + id);  // nobody's
      const Stats s = engine.stats();
      EXPECT_LE(s.finished, s.requests);
      EXPECT_LE(s.blocks_used, s.blocks_total);
    }
    working--;
  };
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; t++) threads.emplace_back(work, t);
  Outcomes outcomes;
  while (working > 0 || engine.has_work()) gather(outcomes, engine.step());
  for (auto& thread : threads) thread.join();

  EXPECT_EQ(submitted.size(), requests.size());
  for (const auto& [id, i] : submitted) {
    const auto found = outcomes.find({id, 0});
    ASSERT_NE(found, outcomes.end());
    EXPECT_EQ(found->second.ends, 1);
    if (found->second.finish == FinishReason::cancelled) EXPECT_EQ(i % 7, 0u);
    else expect_as_alone(outcomes, id, requests[i]);
  }
  const Stats s = engine.stats();
  EXPECT_EQ(s.requests, int64_t(requests.size()));
  EXPECT_EQ(s.finished, s.requests);
  EXPECT_EQ(s.blocks_used + s.running + s.waiting, 0);
}

TEST_P(EngineTest, ForwardBesideOpenRequestsChangesNeitherThemNorItself) {
  Engine engine(config()), quiet(config());
  const auto requests = make_requests(24);
  const std::vector<int32_t> ids{5, 6, 7, 8, 9, 10};
  std::vector<float> expected(ids.size() * size_t(kModel.vocab)), got(expected.size());
  quiet.forward(ids, 2, 3, expected);

  std::map<uint64_t, size_t> submitted;
  for (size_t i = 0; i < requests.size(); i++) submitted[engine.submit(requests[i].prompt, requests[i].params)] = i;
  std::thread caller([&] {
    for (int i = 0; i < 20; i++) {
      std::fill(got.begin(), got.end(), 0.f);
      engine.forward(ids, 2, 3, got);
      EXPECT_EQ(got, expected);
    }
  });
  Outcomes outcomes;
  while (engine.has_work()) {
    try {
      gather(outcomes, engine.step());
    } catch (const Error& e) {  // forward's turn
      EXPECT_EQ(e.kind, ErrorKind::runtime);
      std::this_thread::yield();
    }
  }
  caller.join();
  gather(outcomes, engine.step());  // what forward's own steps left
  for (const auto& [id, i] : submitted) expect_as_alone(outcomes, id, requests[i]);
}

TEST_P(EngineTest, ASecondStepAtTheSameTimeIsRefusedAndHarmless) {
  Engine engine(config());
  const auto requests = make_requests(40);
  std::map<uint64_t, size_t> submitted;
  for (size_t i = 0; i < requests.size(); i++) submitted[engine.submit(requests[i].prompt, requests[i].params)] = i;
  std::mutex mutex;
  Outcomes outcomes;
  std::atomic<int> refused{0};
  const auto work = [&] {
    while (engine.has_work()) {
      try {
        const std::vector<Delta> deltas = engine.step();
        const std::lock_guard lock(mutex);
        gather(outcomes, deltas);
      } catch (const Error& e) {
        EXPECT_EQ(e.kind, ErrorKind::runtime);
        EXPECT_NE(std::string(e.what()).find("another thread"), std::string::npos) << e.what();
        refused++;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) threads.emplace_back(work);
  for (auto& thread : threads) thread.join();
  EXPECT_GT(refused, 0);
  for (const auto& [id, i] : submitted) EXPECT_EQ(outcomes.at({id, 0}).ends, 1) << i;
}

TEST_P(EngineTest, AVocabularyGivesTextBansIdsPastItAndStopsAtStrings) {
  Engine engine(config());
  Vocabulary vocabulary;
  for (int32_t i = 0; i < 100; i++) vocabulary.bytes.push_back(std::string(1, char('A' + i % 26)));
  engine.set_vocabulary(vocabulary);
  const SamplingParams params{.max_tokens = 100, .temperature = 1.5f, .seed = 3, .ignore_eos = true};
  const std::vector<int32_t> prompt{1, 2, 3};
  const uint64_t id = engine.submit(prompt, params);
  const Outcome free = drain(engine).at({id, 0});
  std::string text;
  for (const int32_t token : free.ids) {
    ASSERT_LT(token, 100) << "an id past the vocabulary was drawn";
    text += vocabulary.bytes[size_t(token)];
  }
  EXPECT_EQ(free.text, text);

  SamplingParams stopping = params;
  stopping.stop = {text.substr(40, 4), "never this"};
  const uint64_t second = engine.submit(prompt, stopping);
  const Outcome stopped = drain(engine).at({second, 0});
  EXPECT_EQ(stopped.text, text.substr(0, text.find(stopping.stop[0])));
  EXPECT_EQ(stopped.finish, FinishReason::stop);
  EXPECT_EQ(error_of([&] { engine.set_vocabulary(vocabulary); }).kind, ErrorKind::runtime) << "after a request";
}

TEST_P(EngineTest, AFailedRequestLeavesTheOthers) {
  Engine engine(config());
  const auto requests = make_requests(12);
  std::map<uint64_t, size_t> submitted;
  std::vector<uint64_t> failing;
  for (size_t i = 0; i < requests.size(); i++) {
    submitted[engine.submit(requests[i].prompt, requests[i].params)] = i;
    auto bad = requests[i].prompt;
    bad.push_back(kModel.nan_token);
    if (i % 3 == 0) failing.push_back(engine.submit(bad, requests[i].params));
  }
  const Outcomes outcomes = drain(engine);
  for (const uint64_t id : failing) {
    EXPECT_EQ(outcomes.at({id, 0}).finish, FinishReason::error);
    EXPECT_NE(outcomes.at({id, 0}).error.find("the embedding"), std::string::npos) << outcomes.at({id, 0}).error;
  }
  for (const auto& [id, i] : submitted) expect_as_alone(outcomes, id, requests[i]);
  EXPECT_EQ(engine.stats().blocks_used, 0);
}

TEST_P(EngineTest, WhatIsRefusedLeavesNoTrace) {
  Engine engine(config());
  const std::vector<int32_t> good{1, 2, 3}, none, outside{1, kModel.vocab}, negative{-1}, too_long(300, 1);
  for (const auto* prompt : {&none, &outside, &negative, &too_long})
    EXPECT_EQ(error_of([&] { engine.submit(*prompt, {}); }).kind, ErrorKind::invalid);
  EXPECT_EQ(error_of([&] { engine.submit(good, {.top_p = 0}); }).kind, ErrorKind::invalid);
  EXPECT_EQ(error_of([&] { engine.submit(good, {.stop = {"x"}}); }).kind, ErrorKind::invalid) << "there is no vocabulary";
  std::vector<float> out(10);
  EXPECT_EQ(error_of([&] { engine.forward(good, 1, 3, out); }).kind, ErrorKind::invalid);
  EXPECT_EQ(error_of([&] { engine.forward(good, 1, 2, out); }).kind, ErrorKind::invalid);
  EXPECT_EQ(error_of([&] { engine.forward(good, int64_t(1) << 62, 4, out); }).kind, ErrorKind::invalid);
  EXPECT_EQ(engine.stats().requests, 0);
  EXPECT_FALSE(engine.has_work());
  EXPECT_TRUE(engine.step().empty());
  folder_.remove("model.safetensors");
  EXPECT_EQ(error_of([&] { Engine again(config()); }).kind, ErrorKind::not_found);
  engine.submit(good, {.max_tokens = 4, .ignore_eos = true});
  EXPECT_EQ(drain(engine).begin()->second.ids.size(), 4u) << "the engine needs the folder no more";
}

INSTANTIATE_TEST_SUITE_P(Steps, EngineTest, testing::Bool(), [](const auto& info) { return info.param ? "Ahead" : "InTurn"; });

}  // namespace
}  // namespace neox::test
