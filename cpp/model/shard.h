// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "model/config.h"

namespace neox {

/// The layers that this rank runs, and its neighbours in the pipeline.
struct Stage {
  int32_t first_layer = 0, last_layer = 0;  // [first_layer, last_layer)
  int32_t layers = 0;                       // of the whole model
  int32_t prev = -1, next = -1;             // pipeline ranks
  bool first() const { return first_layer == 0; }
  bool last() const { return last_layer == layers; }
};

/// The part of a model that one rank holds: some layers, and of their heads, intermediate size and vocabulary one share.
struct Shard {
  Stage stage;
  int32_t rank = 0, ranks = 1;  // of the stage's ranks, which share its layers

  int64_t share(int64_t n) const { return n / ranks; }  // of what divides
  /// Rows of the head, with padding at the end of the last ones: the vocabulary need not divide.
  int64_t vocab_rows(const ModelConfig& c) const { return (int64_t(c.vocab_size) + ranks - 1) / ranks; }
  Tensor rows_of(const Tensor& t) const { return t.from(rank * share(t.rows)).first(share(t.rows)); }
  Tensor cols_of(const Tensor& t) const { return t.columns(rank * share(t.cols), share(t.cols)); }
};

/// The share of rank `rank` among tensor_parallel * pipeline_parallel, the ranks of a stage side by side. Stages have as equal work as
/// whole layers allow, the last one's with the head. Throws Error(invalid) where the model does not divide so.
Shard make_shard(const ModelConfig& config, int32_t rank, int32_t tensor_parallel, int32_t pipeline_parallel);

}  // namespace neox
