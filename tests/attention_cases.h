// SPDX-License-Identifier: Apache-2.0
// Sequences that go through the attention op as an engine would send them: in steps, over shuffled pages.
#pragma once
#include "harness.h"

namespace neox::test {

struct Sequences {
  reference::Attention spec;
  int block;
  std::vector<Matrix> qkv;  // of each sequence: [length, heads * 3 * head_dim]
};
struct Shape {
  int heads = 2, head_dim = 32, half = 8;
  DType kv = DType::f32;
  int block = 16;
  std::vector<int> lengths = {1, 17, 40};
};
Sequences make_sequences(const Shape& shape, DType activation, uint32_t seed = 1);
std::vector<Matrix> reference_outputs(const Sequences& sequences);  // of each sequence: [length, heads * head_dim]

struct Chunk {
  int seq, rows;
};
using Schedule = std::vector<std::vector<Chunk>>;   // steps; a step's chunks lie in this order
Schedule whole(const Shape& shape);                 // everything in one step
Schedule alone(const Shape& shape);                 // a sequence at a time
Schedule chunked(const Shape& shape, int rows);     // all sequences, so many rows of each in a step
Schedule tails(const Shape& shape, int rows);       // prompts in one step, then all sequences' last rows one by one, side by side
Schedule mixed(const Shape& shape, uint32_t seed);  // any sequences, in any order, by any number of rows: prompts beside single rows

/// What surrounds the sequences and must not matter.
struct Surroundings {
  uint32_t page_seed = 1;    // which pages the sequences get
  int32_t padding_rows = 0;  // after each step's tokens: slot -1, id 0, position 0
  int64_t pad = 0;           // columns between rows of qkv and of out
  bool move_pages = false;   // every page is copied elsewhere between steps, and the old one filled with NaN
};
/// Free pages are full of NaN, and must stay so; out is NaN before each step.
std::vector<Matrix> run(Backend& backend, const Sequences& sequences, const Schedule& schedule, const Surroundings& around = {});

/// With 16-bit pages a rotated key may round to the other neighbour than in the reference, where it lies half-way within f32's error.
double attention_error(const Backend& backend, DType kv);

}  // namespace neox::test
