// SPDX-License-Identifier: Apache-2.0
#include "model/shard.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace neox {
namespace {

void check_divides(const ModelConfig& c, int32_t tp, int32_t pp) {
  require(c.num_attention_heads % tp == 0, "tensor_parallel_size is ", tp, ", expected a divisor of the model's ", c.num_attention_heads,
          " attention heads");
  require(c.intermediate_size % tp == 0, "tensor_parallel_size is ", tp, ", expected a divisor of the model's intermediate size ",
          c.intermediate_size);
  require(pp <= c.num_hidden_layers, "pipeline_parallel_size is ", pp, ", expected at most the model's ", c.num_hidden_layers, " layers");
}

/// Where stage `s` begins: as many layers before it as make its equal share of all work, counted in layers; at least one for each stage.
int32_t first_layer(const ModelConfig& c, int32_t s, int32_t pp) {
  const int32_t layers = c.num_hidden_layers;
  if (s == pp) return layers;
  const double h = c.hidden_size, head = h * c.vocab_size / (4 * h * h + 2 * h * c.intermediate_size);
  const double ideal = s * (layers + head) / pp;
  return std::clamp(int32_t(std::lround(ideal)), s, layers - (pp - s));
}

}  // namespace

Shard make_shard(const ModelConfig& c, int32_t rank, int32_t tp, int32_t pp) {
  check_divides(c, tp, pp);
  const int32_t s = rank / tp;
  return {.stage = {.first_layer = first_layer(c, s, pp),
                    .last_layer = first_layer(c, s + 1, pp),
                    .layers = c.num_hidden_layers,
                    .prev = s - 1,
                    .next = s + 1 < pp ? s + 1 : -1},
          .rank = rank % tp,
          .ranks = tp};
}

}  // namespace neox
