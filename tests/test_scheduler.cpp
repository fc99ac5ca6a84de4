// SPDX-License-Identifier: Apache-2.0
// The scheduler with an executor that computes nothing: it writes token ids where k and v would go, and draws a new token from all ids that
// it reads back through the page table. A page that is shared, copied, cached or reused wrongly changes what is generated.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>

#include "engine/scheduler.h"
#include "engine/soft_prompts.h"

namespace neox::test {
namespace {

constexpr int32_t kBlockSize = 16;

constexpr int32_t kVocab = 50, kTableRows = 7;
const std::vector<int32_t> kPrefixes = {5, 16, 37};  // positions: less than a page, a page, pages and a part

/// What stands at a position of a sequence: a token's id, or something that only that virtual token is.
int32_t content_at(const Sequence& s, int32_t position) {
  const int32_t token = s.tokens[size_t(position)];
  if (position < s.prefix_length) return 1000 * (s.prefix + 1) + position;
  if (token == kVirtual) return 10000 + int32_t((*s.embeds)[size_t(position - s.soft_begin)]);
  return is_virtual(token) ? kVocab + token - kVirtual - 1 : token;
}
std::vector<int32_t> contents(const Sequence& s, int32_t end) {
  std::vector<int32_t> out;
  for (int32_t p = 0; p < end; p++) out.push_back(content_at(s, p));
  return out;
}

int32_t next_token(const std::vector<int32_t>& seen, uint64_t seed, int32_t index) {
  uint64_t h = seed * 31 + uint64_t(index);
  for (int32_t t : seen) h = (h ^ uint64_t(t)) * 0x9E3779B97F4A7C15, h ^= h >> 29;
  return int32_t(h % 50);
}

class FakeEngine {
 public:
  FakeEngine(const StepLimits& limits, int32_t blocks, bool caching, bool ahead)
      : limits_(limits), ahead_(ahead), scheduler(limits, blocks, caching, 1, kPrefixes), buffer_(limits),
        memory_(size_t(blocks) * kBlockSize, -1), ring_(size_t(2 * limits.samples()), -1) {
    int32_t page = 0;  // the first pages are the prefixes'
    for (size_t i = 0; i < kPrefixes.size(); page += scheduler.pool().blocks_for(kPrefixes[i++]))
      for (int32_t p = 0; p < kPrefixes[i]; p++) memory_[size_t(page * kBlockSize + p)] = int32_t(1000 * (i + 1)) + p;
  }

  /// prompt: ids of the vocabulary, and of table rows after it; it comes after the prefix and the embeddings (of hidden size 1).
  uint64_t submit(std::vector<int32_t> prompt, int32_t max_tokens, int32_t n, int32_t prompt_logprobs, int32_t prefix,
                  const std::vector<float>& embeds) {
    auto s = std::make_shared<Sequence>();
    s->prefix = prefix, s->prefix_length = prefix < 0 ? 0 : kPrefixes[size_t(prefix)];
    s->soft_begin = s->prefix_length, s->soft_end = s->soft_begin + int32_t(embeds.size());
    s->root = -1 - prefix;
    if (!embeds.empty()) {
      const SoftPrompts::Kept kept = soft_prompts_.keep(embeds, s->root);
      s->embeds = kept.rows, s->root = kept.name;
    }
    for (int32_t& token : prompt) token += token >= kVocab ? kVirtual + 1 - kVocab : 0;
    prompt.insert(prompt.begin(), size_t(s->soft_end), kVirtual);
    s->request_id = ++requests_;
    s->seed = 1000 + s->request_id;
    s->prompt_length = int32_t(prompt.size()), s->max_length = s->prompt_length + max_tokens;
    s->forks = n - 1;
    s->scored = s->prefix_length + 1;
    s->params.prompt_logprobs = prompt_logprobs;
    s->tokens = std::move(prompt);
    for (int32_t i = 0; i < n; i++) {
      auto alone = contents(*s, s->prompt_length), tokens = s->tokens;
      while (int32_t(alone.size()) < s->max_length) {
        alone.push_back(next_token(alone, s->seed, i));
        tokens.push_back(alone.back());
      }
      expected_[{s->request_id, i}] = tokens;
    }
    scheduler.add(std::move(s));
    return requests_;
  }
  void cancel(uint64_t id) {
    scheduler.each_of(id, [&](Sequence& s) {
      for (int32_t i = s.index; i <= s.index + s.forks; i++) expected_.erase({id, i});
      s.finish = FinishReason::cancelled;
      scheduler.remove(&s);
    });
  }
  void step() {
    Flight next{.plan = scheduler.schedule(flying_ ? 1 - flying_->plan.slot : 0), .seen = {}};
    const StepPlan& plan = next.plan;
    ASSERT_LE(plan.tokens, limits_.tokens);
    ASSERT_LE(int32_t(plan.chunks.size()), limits_.seqs);
    ASSERT_LE(plan.samples, limits_.samples());
    check_owners();
    if (plan.tokens > 0) {
      buffer_.fill(plan, kVocab);
      run(next);
    }
    if (flying_) settle(*std::exchange(flying_, std::nullopt));
    if (plan.tokens > 0 && ahead_) flying_ = std::move(next);
    else if (plan.tokens > 0) settle(next);
    check_owners();
  }
  bool idle() const { return expected_.empty(); }
  int64_t recorded() const { return recorded_; }  // steps of a recorded shape
  size_t open() const { return expected_.size(); }

 private:
  struct Flight {
    StepPlan plan;
    std::vector<std::vector<int32_t>> seen;  // by each chunk, read back through its page table
  };
  /// What the device does, in order.
  void run(Flight& flight) {
    const int32_t* pairs = buffer_.copies(buffer_.data());
    for (int32_t i = 0; i < buffer_.copy_count(); i++)
      std::copy_n(memory_.begin() + pairs[2 * i] * kBlockSize, kBlockSize, memory_.begin() + pairs[2 * i + 1] * kBlockSize);
    const Step step = buffer_.step(buffer_.data());
    ASSERT_GE(step.seqs, int32_t(flight.plan.chunks.size()));
    check_padding(step, flight.plan);
    ASSERT_EQ(buffer_.embed_rows(), flight.plan.embed_rows);
    ASSERT_LE(buffer_.embed_rows(), limits_.embed_rows);
    const auto* embeds = static_cast<const float*>(buffer_.embeds());
    for (int32_t t = 0; t < flight.plan.tokens; t++) {
      const int32_t id = step.ids[t], brought = id - kVocab - kTableRows;
      memory_[size_t(step.slot[t])] = id < 0 ? ring_[size_t(-1 - id)] : brought >= 0 ? 10000 + int32_t(embeds[brought]) : id;
    }
    auto at = size_t(flight.plan.slot * limits_.samples());
    for (const Chunk& c : flight.plan.chunks) {
      flight.seen.push_back(read_back(step, int32_t(flight.seen.size())));
      at += size_t(c.scores);
      for (int32_t i = 0; i < c.draws; i++) ring_[at++] = next_token(flight.seen.back(), c.sequence->seed, c.sequence->index + i);
    }
  }
  /// What is past the real counts changes nothing, and what is within them is somewhere of its own.
  void check_padding(const Step& step, const StepPlan& plan) {
    recorded_ += buffer_.recorded() >= 0;
    for (const Chunk& c : plan.chunks) ASSERT_TRUE(step.single_rows || c.count > 1);
    for (int32_t t = 0; t < step.tokens; t++) {
      ASSERT_EQ(step.slot[t] < 0, t >= plan.tokens);
      if (t >= plan.tokens) { ASSERT_EQ(step.ids[t], 0); }
    }
    const auto seqs = int32_t(plan.chunks.size());
    for (int32_t s = 0; s < step.seqs; s++) ASSERT_EQ(step.q_start[s + 1] - step.q_start[s], s < seqs ? plan.chunks[size_t(s)].count : 0);
    for (int32_t o = 0; o < step.outs; o++) ASSERT_LT(step.out_rows[o], plan.tokens);
    const SampleRow* rows = buffer_.sample_rows(buffer_.data());
    ASSERT_EQ(buffer_.samples(), plan.samples);
    for (int32_t i = 0; i < buffer_.padded_samples(); i++) {
      ASSERT_EQ(rows[i].row < 0, i >= plan.samples);
      if (i < plan.samples) { ASSERT_EQ(rows[i].out, plan.slot * limits_.samples() + i); }
    }
    ASSERT_LE(buffer_.bytes(), buffer_.capacity());
  }
  std::vector<int32_t> read_back(const Step& step, int32_t seq) const {
    std::vector<int32_t> seen;
    for (int32_t p = 0; p < step.kv_len[seq]; p++)
      seen.push_back(memory_[size_t(step.blocks[seq * step.blocks_ld + p / kBlockSize] * kBlockSize + p % kBlockSize)]);
    return seen;
  }
  void settle(const Flight& flight) {
    auto at = size_t(flight.plan.slot * limits_.samples());
    for (size_t i = 0; i < flight.plan.chunks.size(); i++) {
      const Chunk& c = flight.plan.chunks[i];
      if (c.sequence->finish == FinishReason::none) finish(c, flight.seen[i], at + size_t(c.scores));
      at += size_t(c.samples());
    }
  }
  void finish(const Chunk& c, const std::vector<int32_t>& seen, size_t drawn) {
    Sequence& s = *c.sequence;
    const int32_t end = c.start + c.count;
    ASSERT_EQ(seen, contents(s, end)) << "request " << s.request_id;
    if (c.samples() > 0) scheduler.publish(c);
    scores_[{s.request_id, s.index}] += c.scores;
    if (c.draws == 0) return;
    std::vector<std::shared_ptr<Sequence>> children;
    for (int32_t i = 1; i < c.draws; i++) {
      children.push_back(std::make_shared<Sequence>(s));
      children.back()->index = i, children.back()->forks = 0, children.back()->table = {};
      children.back()->tokens.resize(size_t(end));
      children.back()->tokens.push_back(ring_[drawn + size_t(i)]);
    }
    s.forks = 0;
    s.tokens[size_t(end)] = ring_[drawn];
    if (s.index == 0 && s.params.prompt_logprobs >= 0) {
      const auto prompt = s.tokens.begin() + s.prompt_length;
      const auto real = std::count_if(s.tokens.begin() + std::min(s.prefix_length + 1, s.prompt_length), prompt,
                                      [](int32_t t) { return !is_virtual(t); });
      EXPECT_EQ((scores_[{s.request_id, 0}]), real) << "every prompt token that follows a position of its own is scored once";
    }
    for (auto& child : children)
      if (!ended(*child, end)) scheduler.fork(s, child);
    if (ended(s, end)) scheduler.remove(&s);
  }
  bool ended(Sequence& s, int32_t position) {
    if (position + 1 < s.max_length) return false;
    s.finish = FinishReason::length;
    const auto it = expected_.find({s.request_id, s.index});
    EXPECT_NE(it, expected_.end()) << "request " << s.request_id << " ended twice, or after its cancellation";
    if (it == expected_.end()) return true;
    EXPECT_EQ(s.tokens, it->second) << "request " << s.request_id << " sample " << s.index;
    expected_.erase(it);
    return true;
  }
  void check_owners() {
    int32_t owned = 0;
    for (int32_t b = 0; b < scheduler.pool().size(); b++) owned += scheduler.pool().owners(b) > 0;
    ASSERT_EQ(owned + scheduler.pool().available(), scheduler.pool().size());
    if (scheduler.running() == 0) { ASSERT_EQ(owned, scheduler.pinned_pages()) << "pages without a running owner"; }
  }

  const StepLimits limits_;
  const bool ahead_;

 public:
  Scheduler scheduler;

 private:
  SoftPrompts soft_prompts_{-int64_t(kPrefixes.size())};
  StepBuffer buffer_;
  std::vector<int32_t> memory_;  // [blocks * block size] token ids in place of k and v
  std::vector<int32_t> ring_;    // [2, samples]
  std::optional<Flight> flying_;
  std::map<std::pair<uint64_t, int32_t>, int32_t> scores_;
  std::map<std::pair<uint64_t, int32_t>, std::vector<int32_t>> expected_;
  uint64_t requests_ = 0;
  int64_t recorded_ = 0;
};

class SchedulerProperty : public testing::TestWithParam<std::tuple<bool, int32_t, bool, bool>> {};

TEST_P(SchedulerProperty, EveryRequestEndsWithTheTokensItWouldHaveHadAloneOverTenThousandRandomSteps) {
  const auto [caching, blocks, ahead, padded] = GetParam();
  StepLimits limits{.tokens = padded ? 70 : 40, .seqs = 9, .blocks_per_seq = 12, .block_size = kBlockSize, .vocab = kVocab};
  limits.hidden = 1, limits.embed_rows = 11, limits.table_rows = kTableRows;
  if (padded) limits.recorded = shapes_to_record(limits, 256);
  FakeEngine engine(limits, blocks + 5, caching, ahead);  // 5 of them are pinned
  std::mt19937 random(uint32_t(blocks) + caching);
  auto draw = [&](int n) { return int(random() % unsigned(n)); };
  uint64_t newest = 0;
  for (int i = 0; i < 10000 && !testing::Test::HasFatalFailure(); i++) {
    if (engine.open() < 30 && draw(3) == 0) {
      std::vector<int32_t> prompt(size_t(1 + draw(80)));
      for (size_t p = 0; p < prompt.size(); p++) prompt[p] = p < 50 ? draw(2) * (p % 16 == 3) : draw(50);  // common beginnings
      const int32_t max_tokens = 1 + draw(40), n = draw(4) == 0 ? 1 + draw(5) : 1, scored = draw(4) == 0 ? 0 : -1;
      int32_t prefix = -1;
      std::vector<float> embeds;
      if (draw(2)) {  // else nothing but tokens
        prefix = draw(4) - 1;
        prompt.resize(std::min<size_t>(prompt.size(), 8 * 16 - 40 - 37 - 20));
        if (draw(2)) embeds.resize(size_t(1 + draw(20)), float(draw(3)));
        if (draw(2)) prompt[prompt.size() / 2] = kVocab + draw(kTableRows);
      }
      newest = engine.submit(std::move(prompt), max_tokens, n, scored, prefix, embeds);
    }
    if (draw(20) == 0) engine.cancel(newest - uint64_t(draw(5)));
    engine.step();
  }
  for (int i = 0; i < 10000 && !engine.idle() && !testing::Test::HasFatalFailure(); i++) engine.step();
  EXPECT_TRUE(engine.idle()) << engine.open() << " requests never ended";
  EXPECT_EQ(engine.recorded() > 1000, padded);
  if (blocks < 20) { EXPECT_GT(engine.scheduler.preemptions(), 100) << "the test should have pressed for pages"; }
  if (caching) { EXPECT_GT(engine.scheduler.tokens_cached(), 1000) << "the test should have hit the cache"; }
}

INSTANTIATE_TEST_SUITE_P(CachingPagesAheadPadded, SchedulerProperty,
                         testing::Combine(testing::Bool(), testing::Values(8, 12, 40, 200), testing::Bool(), testing::Bool()));

}  // namespace
}  // namespace neox::test
