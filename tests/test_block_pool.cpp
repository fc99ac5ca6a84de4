// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

#include "engine/block_pool.h"

namespace neox::test {
namespace {

std::vector<int32_t> tokens_from(int32_t first, int32_t n) {
  std::vector<int32_t> t(static_cast<size_t>(n));
  std::iota(t.begin(), t.end(), first);
  return t;
}

TEST(BlockPool, GrowsAllOrNothing) {
  BlockPool pool(4, 16, true);
  BlockTable a, b;
  EXPECT_TRUE(pool.grow(a, 3));
  EXPECT_FALSE(pool.grow(b, 2));
  EXPECT_EQ(b.size(), 0);
  EXPECT_EQ(pool.available(), 1);
  EXPECT_TRUE(pool.grow(b, 1));
  pool.release(a);
  EXPECT_EQ(pool.available(), 3);
}

TEST(BlockPool, FindsAPublishedPrefixAfterItsOwnerIsGone) {
  BlockPool pool(8, 16, true);
  const auto tokens = tokens_from(0, 40);
  BlockTable a, b;
  pool.grow(a, 3);
  pool.publish(a, tokens, 40);
  const auto blocks = a.blocks;
  pool.release(a);
  EXPECT_EQ(pool.match(b, tokens), 32);
  EXPECT_EQ(b.blocks, std::vector<int32_t>(blocks.begin(), blocks.begin() + 2));
}

TEST(BlockPool, DoesNotFindWhatIsNotPublished) {
  BlockPool pool(8, 16, true);
  const auto tokens = tokens_from(0, 48);
  BlockTable a, b;
  pool.grow(a, 3);
  pool.publish(a, tokens, 31);  // one whole page
  EXPECT_EQ(pool.match(b, tokens), 16);
}

TEST(BlockPool, EqualTokensAfterAnotherBeginningAreAnotherPage) {
  BlockPool pool(8, 16, true);
  auto one = tokens_from(0, 32), other = one;
  other[0] = 99;
  BlockTable a, b;
  pool.grow(a, 2);
  pool.publish(a, one, 32);
  EXPECT_EQ(pool.match(b, other), 0);
}

TEST(BlockPool, WithoutPrefixCachingFindsNothing) {
  BlockPool pool(8, 16, false);
  const auto tokens = tokens_from(0, 32);
  BlockTable a, b;
  pool.grow(a, 2);
  pool.publish(a, tokens, 32);
  EXPECT_EQ(pool.match(b, tokens), 0);
}

TEST(BlockPool, ReusesUnfindablePagesFirstAndPrefixEndsBeforeBeginnings) {
  BlockPool pool(4, 16, true);
  const auto tokens = tokens_from(0, 32);
  BlockTable a, b, c;
  pool.grow(a, 3);
  pool.publish(a, tokens, 32);
  pool.release(a);  // two findable pages, two that are not
  pool.grow(b, 3);
  EXPECT_EQ(pool.match(c, tokens), 16);
}

TEST(BlockPool, APinnedTableIsSharedByItsWholePagesAndNeverReused) {
  BlockPool pool(6, 16, true);
  const auto pinned = pool.pin(std::vector<int32_t>{20, 16});  // pages 0, 1 and 2
  EXPECT_EQ(pinned[0].blocks, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(pinned[1].blocks, (std::vector<int32_t>{2}));
  BlockTable a = pool.begin(pinned[0], 20, -1);
  EXPECT_EQ(a.blocks, std::vector<int32_t>{0});
  EXPECT_TRUE(pool.grow(a, 4));
  EXPECT_EQ(pool.available(), 0);
  pool.release(a);
  EXPECT_EQ(pool.available(), 3);
  EXPECT_EQ(pool.owners(0), 1);
  EXPECT_THROW(BlockPool(2, 16, true).pin(std::vector<int32_t>{33}), Error);
}

TEST(BlockPool, EqualTokensAfterAnotherRootAreAnotherPage) {
  BlockPool pool(12, 16, true);
  const auto pinned = pool.pin(std::vector<int32_t>{16, 16});
  const auto tokens = tokens_from(0, 48);
  BlockTable a = pool.begin(pinned[0], 16, -1);
  pool.grow(a, 3);
  pool.publish(a, tokens, 48);
  pool.release(a);
  BlockTable same = pool.begin(pinned[0], 16, -1), other = pool.begin(pinned[1], 16, -2), brought = pool.begin({}, 0, -3), plain;
  EXPECT_EQ(pool.match(same, tokens), 48);
  EXPECT_EQ(pool.match(other, tokens), 16);  // the pinned page alone
  EXPECT_EQ(pool.match(brought, tokens), 0);
  EXPECT_EQ(pool.match(plain, tokens), 0);
}

TEST(BlockPool, ATableSharedInPartPublishesItsOwnContinuationUnderItsRoot) {
  BlockPool pool(12, 16, true);
  const auto pinned = pool.pin(std::vector<int32_t>{16});
  const auto tokens = tokens_from(0, 48);
  BlockTable a = pool.begin(pinned[0], 16, -1);
  pool.grow(a, 3);
  pool.publish(a, tokens, 48);
  BlockTable b = pool.share(a, 2);  // of three that are published
  EXPECT_EQ(b.published, 1);
  EXPECT_EQ(b.prefix, -1);
  pool.publish(b, tokens, 32);
  BlockTable c = pool.begin(pinned[0], 16, -1);
  EXPECT_EQ(pool.match(c, tokens), 48);
  EXPECT_EQ(c.blocks, a.blocks);
}

// What a page holds, kept beside the pool: the tokens of the whole prefix up to its end.
struct World {
  BlockPool pool{24, 16, true};
  std::mt19937 random{7};
  struct Owner {
    BlockTable table;
    std::vector<int32_t> tokens;
  };
  std::vector<Owner> owners;
  std::map<int32_t, std::vector<int32_t>> written;

  int draw(int n) { return int(random() % unsigned(n)); }
  void write(const Owner& o) {
    for (int32_t i = 0; i < o.table.size(); i++) {
      const auto end = std::min(o.tokens.size(), size_t(i + 1) * 16);
      if (pool.owners(o.table.blocks[size_t(i)]) == 1)
        written[o.table.blocks[size_t(i)]].assign(o.tokens.begin(), o.tokens.begin() + ptrdiff_t(end));
    }
  }
  void arrive() {
    Owner o;
    const int length = 1 + draw(100);
    for (int i = 0; i < length; i++) o.tokens.push_back(i < 60 ? draw(2) * (i % 16 == 0) : draw(3));  // few distinct beginnings
    const int32_t hit = pool.match(o.table, o.tokens);
    for (int32_t i = 0; i < hit / 16; i++)
      ASSERT_EQ(written[o.table.blocks[size_t(i)]], std::vector<int32_t>(o.tokens.begin(), o.tokens.begin() + (i + 1) * 16))
          << "a hit holds other tokens";
    if (!pool.grow(o.table, pool.blocks_for(length))) return pool.release(o.table);
    write(o);
    if (draw(4) > 0) pool.publish(o.table, o.tokens, length);
    owners.push_back(std::move(o));
  }
  void fork() {
    if (owners.empty()) return;
    const Owner& from = owners[size_t(draw(int(owners.size())))];
    const int32_t whole = int32_t(from.tokens.size()) / 16, shared = draw(whole + 1);
    Owner o{.table = pool.share(from.table, shared), .tokens = {from.tokens.begin(), from.tokens.begin() + shared * 16}};
    if (draw(2)) pool.publish(o.table, o.tokens, shared * 16);
    owners.push_back(std::move(o));
  }
  void leave() {
    if (owners.empty()) return;
    const auto at = owners.begin() + draw(int(owners.size()));
    pool.release(at->table);
    owners.erase(at);
  }
  void check() {
    std::map<int32_t, int32_t> count;
    for (const Owner& o : owners)
      for (int32_t b : o.table.blocks) count[b]++;
    for (int32_t b = 0; b < pool.size(); b++) ASSERT_EQ(pool.owners(b), count[b]) << "page " << b;
    int32_t owned = 0;
    for (const auto& [b, n] : count) owned += n > 0;
    ASSERT_EQ(pool.available(), pool.size() - owned);
  }
};

TEST(BlockPool, OwnersSumAndHitsHoldTheirTokensOverTenThousandRandomSteps) {
  World world;
  for (int i = 0; i < 10000 && !testing::Test::HasFatalFailure(); i++) {
    const int what = world.draw(10);
    if (what < 5) world.arrive();
    else if (what < 7) world.fork();
    else world.leave();
    world.check();
  }
}

}  // namespace
}  // namespace neox::test
