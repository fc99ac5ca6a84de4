// SPDX-License-Identifier: Apache-2.0
#include "model/shard.h"

#include <gtest/gtest.h>

#include "neox/error.h"

namespace neox::test {
namespace {

ModelConfig config(int32_t layers, int32_t hidden, int32_t heads, int32_t vocab) {
  ModelConfig c;
  c.num_hidden_layers = layers, c.hidden_size = hidden, c.num_attention_heads = heads, c.intermediate_size = 4 * hidden;
  c.vocab_size = vocab;
  return c;
}

std::vector<int32_t> layers_of(const ModelConfig& c, int32_t pp) {
  std::vector<int32_t> counts;
  int32_t next = 0;
  for (int32_t s = 0; s < pp; s++) {
    const Stage stage = make_shard(c, s, 1, pp).stage;
    EXPECT_EQ(stage.first_layer, next);
    EXPECT_EQ(stage.prev, s - 1);
    EXPECT_EQ(stage.next, s + 1 < pp ? s + 1 : -1);
    counts.push_back(stage.last_layer - stage.first_layer);
    next = stage.last_layer;
  }
  EXPECT_EQ(next, c.num_hidden_layers);
  return counts;
}

std::string refusal(const ModelConfig& c, int32_t tp, int32_t pp) {
  try {
    make_shard(c, 0, tp, pp);
    return "";
  } catch (const Error& e) { return e.what(); }
}

}  // namespace

TEST(Shard, StagesHaveEqualWorkWithTheHeadCountedIn) {
  EXPECT_EQ(layers_of(config(24, 1024, 16, 50304), 2), (std::vector<int32_t>{14, 10}));  // a head as large as 4 layers
  EXPECT_EQ(layers_of(config(44, 6144, 64, 50432), 1), (std::vector<int32_t>{44}));
  EXPECT_EQ(layers_of(config(44, 6144, 64, 50432), 4), (std::vector<int32_t>{11, 11, 12, 10}));
}

TEST(Shard, EveryStageHasALayerHoweverLargeTheHead) {
  EXPECT_EQ(layers_of(config(3, 32, 2, 50000), 3), (std::vector<int32_t>{1, 1, 1}));
  EXPECT_EQ(layers_of(config(2, 32, 2, 50000), 2), (std::vector<int32_t>{1, 1}));
}

TEST(Shard, RanksOfAStageLieSideBySide) {
  const ModelConfig c = config(4, 64, 4, 100);
  for (int32_t r = 0; r < 8; r++) {
    const Shard s = make_shard(c, r, 4, 2);
    EXPECT_EQ(s.rank, r % 4);
    EXPECT_EQ(s.stage.first(), r < 4);
    EXPECT_EQ(s.stage.last(), r >= 4);
  }
}

TEST(Shard, RowsAndColumnsOfAllRanksAreTheWholeMatrix) {
  float values[6][4];
  for (int r = 0; r < 6; r++)
    for (int c = 0; c < 4; c++) values[r][c] = float(10 * r + c);
  const Tensor whole{.data = values, .rows = 6, .cols = 4, .ld = 4, .dtype = DType::f32};
  const Shard second{.stage = {}, .rank = 1, .ranks = 2};
  const Tensor rows = second.rows_of(whole), cols = second.cols_of(whole);
  EXPECT_EQ(rows.rows, 3);
  EXPECT_EQ(rows.row(0)[0], 30);
  EXPECT_EQ(cols.cols, 2);
  EXPECT_EQ(cols.rows, 6);
  EXPECT_EQ(cols.row(5)[1], 53);
}

TEST(Shard, AVocabularyThatDoesNotDivideIsPadded) {
  const Shard s{.stage = {}, .rank = 3, .ranks = 4};
  EXPECT_EQ(s.vocab_rows(config(1, 8, 1, 131)), 33);
  EXPECT_EQ(s.vocab_rows(config(1, 8, 1, 132)), 33);
}

TEST(Shard, WhatDoesNotDivideIsRefusedByNameAndNumbers) {
  ModelConfig c = config(2, 48, 6, 100);
  EXPECT_EQ(refusal(c, 4, 1), "tensor_parallel_size is 4, expected a divisor of the model's 6 attention heads");
  EXPECT_EQ(refusal(c, 1, 3), "pipeline_parallel_size is 3, expected at most the model's 2 layers");
  c.intermediate_size = 100;
  EXPECT_EQ(refusal(c, 3, 1), "tensor_parallel_size is 3, expected a divisor of the model's intermediate size 100");
  EXPECT_EQ(refusal(c, 2, 2), "");
}

}  // namespace neox::test
