// SPDX-License-Identifier: Apache-2.0
// Ranks as threads: messages, collectives, and what happens when one of them fails.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <thread>

#include "comm/host_communicator.h"
#include "comm/thread_group.h"
#include "cpu/cpu_backend.h"

namespace neox::test {
namespace {

using Body = std::function<void(HostGroup&)>;

/// Runs body as every rank of a group of threads. Returns what each threw, "" where nothing was.
std::vector<std::string> on_ranks(int size, double timeout, const Body& body) {
  auto groups = make_thread_groups(size, timeout);
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; r++)
    threads.emplace_back([&, r] {
      try {
        body(*groups[size_t(r)]);
      } catch (const Error& e) {
        errors[size_t(r)] = e.what();
        groups[size_t(r)]->abort(e.kind, e.what());
      }
    });
  for (auto& t : threads) t.join();
  return errors;
}

std::vector<std::string> on_ranks(int size, const Body& body) { return on_ranks(size, 20, body); }
std::vector<std::string> none(int size) { return std::vector<std::string>(static_cast<size_t>(size)); }

HostCommunicator all_of(Backend& backend, HostGroup& group) {
  std::vector<int> members;
  for (int r = 0; r < group.size(); r++) members.push_back(r);
  return {backend, group, members, Channel::tensor_parallel};
}

Tensor view(std::vector<float>& v, int64_t rows, int64_t cols, int64_t ld) {
  return {.data = v.data(), .rows = rows, .cols = cols, .ld = ld, .dtype = DType::f32};
}

/// What rank r has at place i: of sizes whose sum depends on the order.
float value(int r, size_t i) { return float(r % 2 ? -1 : 1) * (1 + float(i % 977) * 1e-3f) * float(1 + 1000 * (r % 3)); }

}  // namespace

TEST(ThreadGroup, MessagesOfAChannelComeInOrderAndChannelsDoNotMix) {
  EXPECT_EQ(on_ranks(2,
                     [](HostGroup& g) {
                       constexpr int kMany = 1000;
                       for (int i = 0; i < kMany && g.rank() == 0; i++) {
                         g.send(1, Channel::steps, &i, sizeof i);
                         const int other = -i;
                         g.send(1, Channel::results, &other, sizeof other);
                       }
                       for (Channel c : {Channel::results, Channel::steps})
                         for (int i = 0, got = 0; i < kMany && g.rank() == 1; i++) {
                           ASSERT_EQ(g.recv(0, c, &got, sizeof got), sizeof got);
                           ASSERT_EQ(got, c == Channel::steps ? i : -i);
                         }
                     }),
            none(2));
}

TEST(ThreadGroup, TextOfAnyLengthArrivesWhole) {
  const std::string text(200'000'000, 'x');
  for (const std::string& sent : {std::string(), std::string("a"), text})
    EXPECT_EQ(on_ranks(2,
                       [&](HostGroup& g) {
                         if (g.rank() == 0) send_text(g, 1, Channel::meeting, sent);
                         else EXPECT_TRUE(recv_text(g, 0, Channel::meeting) == sent);
                       }),
              none(2));
}

TEST(ThreadGroup, AMessageLongerThanItsRoomIsAnError) {
  const auto errors = on_ranks(2, [](HostGroup& g) {
    char data[16] = {};
    if (g.rank() == 0) g.send(1, Channel::steps, data, 16);
    else g.recv(0, Channel::steps, data, 8);
  });
  EXPECT_NE(errors[1].find("rank 1 got 16 bytes from rank 0, expected at most 8"), std::string::npos) << errors[1];
}

TEST(ThreadGroup, ASleepingRankEndsTheOthersWithinTheTimeOutNamingStepAndCollective) {
  const auto start = std::chrono::steady_clock::now();
  std::chrono::duration<double> took{};
  const auto errors = on_ranks(3, 0.3, [&](HostGroup& g) {
    g.doing = {.step = 12, .what = "embedding"};
    if (g.rank() == 1) return std::this_thread::sleep_for(std::chrono::milliseconds(900));
    const auto backend = make_cpu_backend("auto", 1);
    std::vector<float> x(8);
    try {
      all_of(*backend, g).all_reduce(view(x, 1, 8, 8));
    } catch (...) {
      took = std::max(took, std::chrono::duration<double>(std::chrono::steady_clock::now() - start));
      throw;
    }
  });
  EXPECT_NE((errors[0] + errors[2]).find("waited 0.3 s (comm_timeout) for rank 1 in vain, in step 12, all_reduce 1"), std::string::npos)
      << errors[0] << '\n'
      << errors[2];
  EXPECT_FALSE(errors[0].empty() || errors[2].empty());
  EXPECT_LT(took.count(), 0.8);
}

TEST(ThreadGroup, ARankThatThrowsEndsTheOthersAtOnceWithItsWordsAndKind) {
  auto groups = make_thread_groups(2, 20);
  std::thread other([&] {
    groups[1]->doing = {.step = 3, .what = "embedding"};
    groups[1]->abort(ErrorKind::memory, "no room");
  });
  const auto start = std::chrono::steady_clock::now();
  char c;
  try {
    groups[0]->recv(1, Channel::steps, &c, 1, HostGroup::Patience::forever);
    ADD_FAILURE() << "recv returned";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, ErrorKind::memory);
    EXPECT_STREQ(e.what(), "rank 1 failed in step 3, embedding: no room; rank 0 was in the start");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  other.join();
}

TEST(ThreadGroup, ARankThatLooksSeesThatAnotherHasFailed) {
  auto groups = make_thread_groups(2, 20);
  groups[0]->check();
  groups[1]->abort(ErrorKind::memory, "no room");
  EXPECT_THROW(groups[0]->check(), Error);
}

TEST(Exchange, GivesEachMemberWhatAllSaidInTheirOrder) {
  EXPECT_EQ(on_ranks(4,
                     [](HostGroup& g) {
                       const std::vector<int> odd{1, 3}, even{2, 0};
                       const std::string mine(size_t(g.rank()), char('a' + g.rank()));
                       const auto said = exchange(g, g.rank() % 2 ? odd : even, Channel::meeting, mine);
                       EXPECT_EQ(said, g.rank() % 2 ? (std::vector<std::string>{"b", "ddd"}) : (std::vector<std::string>{"cc", ""}));
                     }),
            none(4));
}

TEST(Agree, PassesWhereAllLinesAreAlike) {
  EXPECT_EQ(on_ranks(4, [](HostGroup& g) { agree(g, "version: 1\nmodel: a\n"); }), none(4));
}

TEST(Agree, NamesTheFirstDifferenceOnEveryRank) {
  const auto errors = on_ranks(3, [](HostGroup& g) { agree(g, g.rank() == 2 ? "version: 1\nmodel: b\n" : "version: 1\nmodel: a\n"); });
  for (const auto& e : errors) EXPECT_NE(e.find("rank 0 has model: a, rank 2 has model: b"), std::string::npos) << e;
}

TEST(Agree, ALineMoreIsADifference) {
  const auto errors = on_ranks(2, [](HostGroup& g) { agree(g, g.rank() == 1 ? "a: 1\nb: 2\n" : "a: 1\n"); });
  EXPECT_NE(errors[0].find("rank 0 has nothing more, rank 1 has b: 2"), std::string::npos) << errors[0];
}

TEST(Minimum, IsTheLeastOnEveryRank) {
  EXPECT_EQ(on_ranks(4, [](HostGroup& g) { EXPECT_EQ(minimum(g, 10 - (g.rank() == 2 ? 7 : g.rank())), 3); }), none(4));
}

/// Many more ranks than cores too: nobody may spin in the others' way.
class Collectives : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Collectives, testing::Values(1, 2, 3, 4, 8));

TEST_P(Collectives, AllReduceIsTheSumInRankOrderToTheBitForAnySize) {
  const int size = GetParam();
  for (auto [rows, cols, ld] : {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 21}, {1, 16384, 16384}, {40, 1000, 1016}})
    EXPECT_EQ(on_ranks(size,
                       [&, rows = rows, cols = cols, ld = ld](HostGroup& g) {
                         const auto backend = make_cpu_backend("auto", 1);
                         auto comm = all_of(*backend, g);
                         for (int again = 0; again < 3; again++) {
                           std::vector<float> x(size_t(rows * ld));
                           for (size_t i = 0; i < x.size(); i++) x[i] = value(g.rank(), i);
                           comm.all_reduce(view(x, rows, cols, ld));
                           for (int64_t r = 0; r < rows; r++)
                             for (int64_t c = 0; c < cols; c++) {
                               const auto i = size_t(r * ld + c);
                               float sum = value(0, i);
                               for (int other = 1; other < size; other++) sum += value(other, i);
                               ASSERT_EQ(x[i], sum) << r << ' ' << c;
                             }
                         }
                       }),
              none(size));
}

TEST_P(Collectives, AllGatherPutsThePartsSideBySide) {
  const int size = GetParam();
  EXPECT_EQ(on_ranks(size,
                     [&](HostGroup& g) {
                       const auto backend = make_cpu_backend("auto", 1);
                       constexpr int64_t kRows = 5, kCols = 7, kLd = 9;
                       const int64_t ld = size * kCols + 3;
                       std::vector<float> part(kRows * kLd), out(size_t(kRows * ld), -1);
                       for (size_t i = 0; i < part.size(); i++) part[i] = value(g.rank(), i);
                       all_of(*backend, g).all_gather_cols(view(out, kRows, size * kCols, ld), view(part, kRows, kCols, kLd));
                       for (int64_t row = 0; row < kRows; row++)
                         for (int64_t c = 0; c < ld; c++)
                           ASSERT_EQ(out[size_t(row * ld + c)],
                                     c < size * kCols ? value(int(c / kCols), size_t(row * kLd + c % kCols)) : -1);
                     }),
            none(size));
}

TEST_P(Collectives, SendAndRecvPassATensorOn) {
  const int size = GetParam();
  EXPECT_EQ(on_ranks(size,
                     [&](HostGroup& g) {
                       const auto backend = make_cpu_backend("auto", 1);
                       auto comm = all_of(*backend, g);
                       std::vector<float> x(30);
                       for (size_t i = 0; i < x.size() && g.rank() == 0; i++) x[i] = value(5, i);
                       if (g.rank() > 0) comm.recv(view(x, 3, 8, 10), g.rank() - 1);
                       if (g.rank() + 1 < size) comm.send(view(x, 3, 8, 10), g.rank() + 1);
                       for (size_t i = 0; i < 28; i++) ASSERT_EQ(x[i], value(5, i));
                     }),
            none(size));
}

}  // namespace neox::test
