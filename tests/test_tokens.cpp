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
