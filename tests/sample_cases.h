// SPDX-License-Identifier: Apache-2.0
// The sample op over rows that lie in host memory.
#pragma once
#include <algorithm>
#include <optional>

#include "harness.h"
#include "reference_sample.h"

namespace neox::test {

struct Sampled {
  std::vector<Sample> rows;
  std::vector<int32_t> top_ids;     // [rows, top_n]
  std::vector<float> top_logprobs;  // [rows, top_n]
};
struct SampleCall {
  std::vector<std::vector<float>> logits;  // [rows][vocab]
  std::vector<SampleRow> rows;
  std::optional<int32_t> limit;  // absent: the vocabulary
  std::vector<EditRow> edit_rows = {};
  std::vector<Edit> edits = {};
  std::vector<int32_t> ids = {};  // of edit_rows
  int32_t top_n = 0;
};

inline Sampled sample(Backend& backend, const SampleCall& call) {
  const auto vocab = int64_t(call.logits[0].size());
  Matrix logits(int64_t(call.logits.size()), vocab);
  for (size_t r = 0; r < call.logits.size(); r++) std::copy(call.logits[r].begin(), call.logits[r].end(), logits.row(int64_t(r)));
  const size_t count = call.rows.size(), top = count * size_t(call.top_n);
  const DeviceMatrix device_logits(backend, logits, DType::f32, vocab % 3);
  std::vector<SampleRow> asked = call.rows;
  for (size_t i = 0; i < count; i++)
    asked[i].out = int32_t(i), asked[i].limit = call.limit.value_or(int32_t(vocab)), asked[i].top_n = call.top_n;
  const DeviceList<SampleRow> rows(backend, asked);
  const DeviceList<EditRow> edit_rows(backend, call.edit_rows);
  const DeviceList<Edit> edits(backend, call.edits);
  const DeviceList<int32_t> ids(backend, call.ids), top_ids(backend, std::vector<int32_t>(top, -77));
  const DeviceList<float> top_logprobs(backend, std::vector<float>(top, NAN));
  const Sample poison{.id = -77, .logprob = NAN, .rank = -77, .flags = -77};
  const DeviceList<Sample> out(backend, std::vector<Sample>(count, poison));
  const std::string before = device_logits.bits();
  backend.sample({.logits = device_logits,
                  .rows = rows.data(),
                  .count = int32_t(count),
                  .edits = {edit_rows.data(), int32_t(call.edit_rows.size()), edits.data(), ids.data()},
                  .out = out.data(),
                  .top_ld = call.top_n,
                  .top_ids = top_ids.data(),
                  .top_logprobs = top_logprobs.data()});
  EXPECT_TRUE(device_logits.bits() == before) << "logits are only read";
  return {out.values(), top_ids.values(), top_logprobs.values()};
}

inline std::vector<float> random_logits(Random& random, int64_t vocab, double spread = 8) {
  std::vector<float> v;
  for (int64_t i = 0; i < vocab; i++) v.push_back(float(random.uniform(-spread, spread)));
  return v;
}

/// The same logits drawn at positions 0, 1, ...
inline SampleCall many_positions(const std::vector<float>& logits, SampleRow row, int32_t count) {
  SampleCall call{.logits = {logits}, .rows = {}, .limit = {}};
  for (int32_t i = 0; i < count; i++) row.position = i, call.rows.push_back(row);
  return call;
}

}  // namespace neox::test
