// SPDX-License-Identifier: Apache-2.0
// Ops that move rows: embed and gather_rows. (copy_blocks is with attention, which alone can read a page.)
#include "harness.h"

namespace neox::test {

NEOX_OP_TEST(Embed);
NEOX_OP_TEST(GatherRows);

TEST_P(Embed, EveryRowIsItsIdsRowOfTheTableExactly) {
  Random random(1);
  for (DType dtype : kDTypes)
    for (int64_t hidden : {1, 7, 16, 40, 257, 768})
      for (int32_t tokens : {1, 3, 17, 130}) {
        SCOPED_TRACE(describe({{"dtype", int(dtype)}, {"hidden", hidden}, {"tokens", tokens}}));
        const Matrix table = random.matrix(131, hidden, -2, 2, dtype);
        std::vector<int32_t> ids(size_t(tokens), 0);  // padding rows have id 0
        for (int32_t t = 0; t < (tokens + 1) / 2; t++) ids[size_t(t)] = random.below(131);
        const DeviceMatrix device_table(*backend_, table, dtype), out(*backend_, tokens, hidden, DType::f32, hidden % 5);
        const DeviceList<int32_t> device_ids(*backend_, ids);
        backend_->embed({.out = out, .ids = device_ids.data(), .table = device_table});
        EXPECT_EQ(out.values().v, reference::embed(table, ids).v);
        EXPECT_TRUE(out.surroundings_untouched());
      }
}

TEST_P(Embed, TheFirstAndTheLastIdAreRead) {
  const Matrix table = Random(2).matrix(7, 5, -2, 2);
  const DeviceMatrix device_table(*backend_, table), out(*backend_, 2, 5);
  const DeviceList<int32_t> ids(*backend_, {6, 0});
  backend_->embed({.out = out, .ids = ids.data(), .table = device_table});
  EXPECT_EQ(out.values().v, reference::embed(table, {6, 0}).v);
}

TEST_P(Embed, IdsPastTheVocabularyAreRowsOfThePoolBesideAllOtherKinds) {
  Random random(3);
  for (DType dtype : kDTypes)
    for (int64_t hidden : {1, 7, 64, 257, 768}) {
      SCOPED_TRACE(describe({{"dtype", int(dtype)}, {"hidden", hidden}}));
      const Matrix table = random.matrix(131, hidden, -2, 2, dtype), pool = random.matrix(9, hidden, -2, 2);
      const std::vector<Sample> drawn = {{.id = 5}, {.id = 130}};
      const std::vector<int32_t> ids = {131, 0, 139, -2, 130, 134, -1, 131};  // of the pool, of the table, drawn
      Matrix expected(8, hidden);
      for (int64_t c = 0; c < hidden; c++) {
        int64_t row = 0;
        for (int32_t k : {0, 8, 3, 0}) {
          static constexpr int64_t kPlaces[] = {0, 2, 5, 7};
          expected.at(kPlaces[row++], c) = pool.at(k, c);
        }
        expected.at(1, c) = table.at(0, c), expected.at(3, c) = expected.at(4, c) = table.at(130, c), expected.at(6, c) = table.at(5, c);
      }
      const DeviceMatrix device_table(*backend_, table, dtype), device_pool(*backend_, pool, DType::f32, hidden % 3);
      const DeviceMatrix out(*backend_, 8, hidden, DType::f32, hidden % 5);
      const DeviceList<int32_t> device_ids(*backend_, ids);
      const DeviceList<Sample> sampled(*backend_, drawn);
      backend_->embed({.out = out, .ids = device_ids.data(), .table = device_table, .sampled = sampled.data(), .pool = device_pool});
      EXPECT_EQ(out.values().v, expected.v);
      EXPECT_TRUE(out.surroundings_untouched());
    }
}

TEST_P(GatherRows, RowsAreCopiedInAnyOrderAndAnyNumberOfTimes) {
  Random random(3);
  const DType dtype = backend_->activation_dtype(DType::f16);
  for (int64_t cols : {1, 7, 64, 257})
    for (int32_t count : {1, 3, 17, 130}) {
      SCOPED_TRACE(describe({{"cols", cols}, {"count", count}}));
      const Matrix x = random.matrix(33, cols, -2, 2, dtype);
      std::vector<int32_t> rows;
      for (int32_t i = 0; i < count; i++) rows.push_back(random.below(33));
      const DeviceMatrix device_x(*backend_, x, dtype, 3), out(*backend_, count, cols, dtype, cols % 4);
      const DeviceList<int32_t> device_rows(*backend_, rows);
      backend_->gather_rows({.out = out, .x = device_x, .rows = device_rows.data()});
      EXPECT_EQ(out.values().v, reference::gather_rows(x, rows).v);
      EXPECT_TRUE(out.surroundings_untouched());
    }
}

TEST_P(GatherRows, NoRowsAreNoWork) {
  const DeviceMatrix x(*backend_, Random(4).matrix(3, 5, -1, 1)), out(*backend_, 0, 5);
  backend_->gather_rows({.out = out, .x = x, .rows = nullptr});
  EXPECT_TRUE(out.surroundings_untouched());
}

}  // namespace neox::test
