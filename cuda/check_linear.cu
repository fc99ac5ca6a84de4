// SPDX-License-Identifier: Apache-2.0
// Times linear for few rows at GPT-NeoX-20B's shapes, f16, beside the fastest that cuBLASLt proposes and the card's read limit; target
// neox_check_linear. Layers one after the other, whose weights exceed the L2. Each shape's result is compared with cuBLASLt's first.
#include <cuda_fp16.h>

#include <cmath>

#include "check_timing.cuh"
#include "gemm.h"
#include "linear_small.h"

namespace neox::cuda::trial {
namespace {

struct Part {
  int n, k, column;  // column: where its input begins in a row of x
  Act act;
};
struct Shape {
  const char* name;
  std::vector<Part> parts;
  DType out;
  bool sum = false;
  size_t bytes() const {
    size_t b = 0;
    for (const Part& p : parts) b += size_t(p.n) * p.k * 2;
    return b;
  }
};
const std::vector<Shape> kShapes = {
    {"qkv", {{18432, 6144, 0, Act::none}}, DType::f16},
    {"out", {{6144, 6144, 0, Act::none}}, DType::f32},
    {"up", {{24576, 6144, 0, Act::gelu_tanh}}, DType::f16},
    {"down", {{6144, 24576, 0, Act::none}}, DType::f32},
    {"qkv | up", {{18432, 6144, 0, Act::none}, {24576, 6144, 6144, Act::gelu_tanh}}, DType::f16},
    {"out + down", {{6144, 6144, 0, Act::none}, {6144, 24576, 6144, Act::none}}, DType::f32, true},
    {"head", {{50432, 6144, 0, Act::none}}, DType::f32},
};
constexpr int kColumns = 30720, kMostOutputs = 50432, kMostRows = 64, kLayers = 44;
constexpr int kProposals = 8;

class Bench {
 public:
  explicit Bench(cudaStream_t stream)
      : stream_(stream), weights_(size_t(5) << 30), x_(size_t(kMostRows) * kColumns * 2), bias_(size_t(kMostOutputs) * 2),
        out_(size_t(kMostRows) * kMostOutputs * 4), workspace_(kWorkspaceBytes), gemm_(stream, workspace_.data()),
        early_({.handle = stream, .early = kernels_can_wait()}, workspace_.data(), kWorkspaceBytes),
        late_({.handle = stream}, workspace_.data(), kWorkspaceBytes), rate_(read_rate(stream)) {
    uint32_t seed = 1;
    for (const Memory* m : {&weights_, &x_, &bias_}) fill<<<4096, 256, 0, stream>>>(m->data<uint16_t>(), m->bytes() / 2, seed++);
    std::printf("plain read %.2f TB/s\n", rate_ / 1e6);
  }

  /// Of all shapes, for so many rows.
  bool run(int rows) {
    double own = 0, library = 0, bytes = 0;
    bool good = true;
    for (const Shape& s : kShapes) {
      if (s.parts.size() == 1) choose(s, rows);
      const double difference = compare(s, rows), by_library = per_layer(s, [&](int layer) { by_gemm(s, rows, layer); });
      const double late = per_layer(s, [&](int layer) { by_own(late_, s, rows, layer); });
      const double early = per_layer(s, [&](int layer) { by_own(early_, s, rows, layer); });
      if (s.parts.size() == 2) own += early * kLayers, library += by_library * kLayers, bytes += double(s.bytes()) * kLayers;
      std::printf("%3d rows, %-10s: %6.1f us, %3.0f %% of the read limit; without early start %6.1f, cuBLASLt %6.1f; difference %.1e%s\n",
                  rows, s.name, early, 100 * double(s.bytes()) / rate_ / early, late, by_library, difference,
                  difference < 1e-3 ? "" : " FAILED");
      good &= difference < 1e-3;
    }
    std::printf("%3d rows, %d layers : %6.3f ms, %.2f TB/s, %3.0f %% of the read limit; cuBLASLt %6.3f ms\n", rows, kLayers, own / 1e3,
                bytes / own / 1e6, 100 * bytes / rate_ / own, library / 1e3);
    return good;
  }

 private:
  /// Microseconds of a layer's product.
  template <class One> double per_layer(const Shape& s, One one) const {
    const int layers = int(weights_.bytes() / s.bytes());
    const auto all = [&] {
      for (int layer = 0; layer < layers; layer++) one(layer);
    };
    return median_us(stream_, all) / layers;
  }
  /// From now on cuBLASLt multiplies these matrices, each part of a shape, by the fastest that it proposes.
  void choose(const Shape& s, int rows) {
    const Part& p = s.parts[0];
    const GemmKey key{.type = DType::f16, .n = p.n, .k = p.k, .rows = rows};
    double best = 1e9;
    GemmChoice fastest;
    for (const GemmChoice& choice : gemm_.propose(call(s, 0, rows, 0), kProposals)) {
      GemmConfig config = chosen_;
      config.lines[key].choice = choice;
      gemm_.use(config);
      const double us = per_layer(s, [&](int layer) { by_gemm(s, rows, layer); });
      if (us < best) best = us, fastest = choice;
    }
    chosen_.lines[key].choice = fastest;
    gemm_.use(chosen_);
  }
  LinearArgs args(const Shape& s, size_t i, int rows, const Linear& w) const {
    const Part& p = s.parts[i];
    const size_t skip = s.sum || i == 0 ? 0 : size_t(kMostRows) * s.parts[0].n * size_of(s.out);
    return {.out = {.data = out_.data<char>() + skip, .rows = rows, .cols = p.n, .ld = p.n, .dtype = s.out},
            .x = {.data = x_.data<__half>() + p.column, .rows = rows, .cols = p.k, .ld = kColumns, .dtype = DType::f16},
            .w = w,
            .act = p.act};
  }
  Linear weight(const Shape& s, size_t i, int layer) const {
    char* at = weights_.data<char>() + s.bytes() * size_t(layer) + (i ? size_t(s.parts[0].n) * s.parts[0].k * 2 : 0);
    const int n = s.parts[i].n, k = s.parts[i].k;
    Linear w;
    w.weight = {.data = at, .rows = n, .cols = k, .ld = k, .dtype = DType::f16};
    if (s.out == DType::f16) w.bias = {.data = bias_.data(), .rows = 1, .cols = n, .ld = n, .dtype = DType::f16};
    return w;
  }
  void by_own(const SmallLinear& own, const Shape& s, int rows, int layer) const {
    const Linear first = weight(s, 0, layer), last = weight(s, s.parts.size() - 1, layer);
    if (s.parts.size() == 1) own.run({args(s, 0, rows, first)});
    else own.run({args(s, 0, rows, first), args(s, 1, rows, last)});
  }
  Gemm::Call call(const Shape& s, size_t i, int rows, int layer) const {
    const Linear w = weight(s, i, layer);
    const LinearArgs a = args(s, i, rows, w);
    return {.out = a.out,
            .x = a.x,
            .w = w.weight,
            .bias = w.bias,
            .sum = s.sum && i ? Gemm::Sum::added : Gemm::Sum::fresh,
            .epilogue = a.act == Act::gelu_tanh ? Gemm::Epilogue::gelu_tanh : Gemm::Epilogue::none};
  }
  void by_gemm(const Shape& s, int rows, int layer) {
    for (size_t i = 0; i < s.parts.size(); i++) gemm_.run(call(s, i, rows, layer));
  }
  double compare(const Shape& s, int rows) {
    std::vector<uint8_t> got[2];
    for (const bool own : {false, true}) {
      out_.poison();
      if (own) by_own(early_, s, rows, 0);
      else by_gemm(s, rows, 0);
      ok(cudaStreamSynchronize(stream_), "linear");
      got[own] = out_.download();
    }
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < int64_t(got[0].size() / size_of(s.out)); i++) {
      const double a = value(got[1], s.out, i), b = value(got[0], s.out, i);
      if (std::isnan(a) && std::isnan(b)) continue;  // written by neither
      difference += (a - b) * (a - b), norm += b * b;
    }
    return std::sqrt(difference / norm);
  }
  static double value(const std::vector<uint8_t>& v, DType t, int64_t i) {
    return t == DType::f32 ? reinterpret_cast<const float*>(v.data())[i] : __half2float(reinterpret_cast<const __half*>(v.data())[i]);
  }

  const cudaStream_t stream_;
  const Memory weights_, x_, bias_;
  Memory out_;
  const Memory workspace_;
  Gemm gemm_;
  GemmConfig chosen_;
  const SmallLinear early_, late_;
  const double rate_;  // bytes per microsecond
};

}  // namespace
}  // namespace neox::cuda::trial

int main() {
  using namespace neox::cuda::trial;
  cudaStream_t stream;
  ok(cudaStreamCreate(&stream), "stream");
  Bench bench(stream);
  bool good = true;
  for (int rows : {1, 2, 4, 8, 16, 32, 64}) good &= bench.run(rows);
  return good ? 0 : 1;
}
