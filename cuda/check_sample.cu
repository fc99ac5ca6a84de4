// SPDX-License-Identifier: Apache-2.0
// sample and beam_candidates timed at the 20B vocabulary, beside the time in which the logits could be read once. What they choose is
// tested elsewhere.
#include <chrono>
#include <cmath>
#include <random>

#include "check_timing.cuh"
#include "cuda_backend.h"

namespace neox::cuda::trial {
namespace {

constexpr int32_t kVocab = 50432, kRows = 64, kBeams = 4, kRunsTogether = 30, kTimes = 9;

struct Setting {
  const char* name;
  SampleRow row;
};
const Setting kSettings[] = {
    {"greedy", {}},
    {"temperature", {.temperature = 0.8f}},
    {"top_k 40", {.temperature = 0.8f, .top_k = 40}},
    {"top_k 5000", {.temperature = 0.8f, .top_k = 5000}},
    {"top_p 0.9", {.temperature = 0.8f, .top_p = 0.9f}},
    {"top_k 40, top_p 0.9", {.temperature = 0.8f, .top_p = 0.9f, .top_k = 40}},
    {"typical_p 0.9", {.temperature = 0.8f, .typical_p = 0.9f}},
    {"greedy, processed", {.processed = 1}},
    {"top_p 0.9, 20 log-probs", {.temperature = 0.8f, .top_p = 0.9f, .top_n = 20}},
};

/// Normal logits, or those of a language model: a few ids far above, a long tail below.
std::vector<float> logits(bool peaked) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, peaked ? 2.5f : 1);
  std::vector<float> v(size_t(kRows) * kVocab);
  for (float& x : v) x = normal(random);
  for (int32_t row = 0; row < kRows && peaked; row++)
    for (int32_t k = 0; k < 30; k++) v[size_t(row) * kVocab + random() % kVocab] = 16 - std::log(1.f + float(k)) * 2;
  return v;
}

class Bench {
 public:
  Bench() {
    backend_.reserve({.tokens = kRows, .kv = 16, .heads = 1, .head_dim = 64, .vocab = kVocab, .logit_rows = kRows});
    cudaStream_t stream;
    ok(cudaStreamCreate(&stream), "stream");
    rate_ = read_rate(stream);
  }
  void run(bool peaked) {
    const Memory values(logits(peaked)), out(sizeof(Sample) * kRows), top(size_t(kRows) * 20 * 4), top_logprobs(top.bytes());
    const Tensor view{.data = values.data(), .rows = kRows, .cols = kVocab, .ld = kVocab, .dtype = DType::f32};
    for (const Setting& s : kSettings) {
      std::vector<SampleRow> rows;
      for (int32_t i = 0; i < kRows; i++)
        rows.push_back(s.row), rows.back().row = rows.back().out = rows.back().position = i, rows.back().limit = kVocab - 155;
      const Memory device(rows);
      tell(peaked, s.name, kRows, [&] {
        backend_.sample({.logits = view,
                         .rows = device.data<SampleRow>(),
                         .count = kRows,
                         .edits = {},
                         .out = out.data<Sample>(),
                         .top_ld = 20,
                         .top_ids = top.data<int32_t>(),
                         .top_logprobs = top_logprobs.data<float>()});
      });
    }
    std::vector<BeamRow> rows;
    for (int32_t i = 0; i < kRows; i++) rows.push_back({.row = i, .out = i, .limit = kVocab, .first = i * 2 * kBeams, .count = 2 * kBeams});
    const Memory device(rows), candidates(sizeof(Candidate) * kRows * 2 * kBeams);
    tell(peaked, "beams of 4", kRows, [&] {
      backend_.beam_candidates({.logits = view,
                                .rows = device.data<BeamRow>(),
                                .count = kRows,
                                .edits = {},
                                .candidates = candidates.data<Candidate>(),
                                .out = out.data<Sample>(),
                                .top_ld = 20,
                                .top_ids = top.data<int32_t>(),
                                .top_logprobs = top_logprobs.data<float>()});
    });
  }

 private:
  template <class Body> void tell(bool peaked, const char* name, int32_t rows, Body body) {
    const std::unique_ptr<Replay> replay = backend_.record(body);
    std::vector<double> times;
    for (int i = 0; i < kTimes; i++) {
      backend_.synchronize();
      const auto start = std::chrono::steady_clock::now();
      for (int k = 0; k < kRunsTogether; k++) replay->run();
      backend_.synchronize();
      times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / kRunsTogether);
    }
    std::nth_element(times.begin(), times.begin() + kTimes / 2, times.end());
    std::printf("%2d rows x %d, %s logits, %-24s: %6.1f us (read once: %.1f)\n", rows, kVocab, peaked ? "peaked" : "normal", name,
                times[kTimes / 2], double(rows) * kVocab * 4 / rate_);
  }

  CudaBackend backend_{0, BackendConfig{}};
  double rate_;  // bytes per microsecond
};

}  // namespace
}  // namespace neox::cuda::trial

int main() {
  neox::cuda::trial::Bench bench;
  bench.run(false);
  bench.run(true);
  return 0;
}
