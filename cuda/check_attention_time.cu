// SPDX-License-Identifier: Apache-2.0
// The timings of the attention check, f16: 64 heads of 96 (GPT-NeoX-20B), half as many, as a rank of two has, and other head sizes with as
// many columns. Layers whose pages exceed the L2. A prompt's rotate and append are timed apart by steps whose sequences are all empty.
#include <algorithm>

#include "check_attention.h"
#include "check_timing.cuh"

namespace neox::cuda::trial {
namespace {

struct Shape {
  int seqs, kv, q, head_dim = 96, heads = 6144 / head_dim;
};

/// One step's arrays on the device, for sequences of one length; `layers` of pages.
struct Load {
  static constexpr int kBlock = 16;
  int seqs, kv, q, head_dim, heads, table, pages, tokens, layers;
  size_t bytes;  // of a layer's k
  std::vector<int32_t> blocks, q_start{0}, kv_len, pos, slot;
  std::vector<float> cos_sin;

  explicit Load(const Shape& x)
      : seqs(x.seqs), kv(x.kv), q(x.q), head_dim(x.head_dim), heads(x.heads), table((kv + kBlock - 1) / kBlock), pages(seqs * table),
        tokens(seqs * q), bytes(size_t(pages) * kBlock * heads * head_dim * 2), kv_len(size_t(seqs), kv),
        cos_sin(size_t(kv) * (head_dim / 8 * 2), 0.7f) {
    layers = int(std::clamp<size_t>((size_t(600) << 20) / (2 * bytes), 2, 44));
    for (int i = 0; i < pages; i++) blocks.push_back(int32_t(int64_t(i) * 7919 % pages));  // a permutation: 7919 is prime
    for (int s = 0; s < seqs; s++) {
      for (int t = kv - q; t < kv; t++) pos.push_back(t), slot.push_back(blocks[s * table + t / kBlock] * kBlock + t % kBlock);
      q_start.push_back((s + 1) * q);
    }
  }
  double flops() const { return double(seqs) * (double(q) * (kv - q) + q * (q + 1.0) / 2) * heads * head_dim * 4; }
  double kv_bytes() const { return double(seqs) * kv * heads * head_dim * 4; }
  double append_bytes() const { return double(tokens) * heads * head_dim * 9; }  // k and v in and out, and a quarter of q
};

void time_one(const Shape& shape, double rate, cudaStream_t stream) {
  const Load x(shape);
  const int columns = x.heads * x.head_dim;
  const Memory k(x.layers * x.bytes), v(x.layers * x.bytes), d_blocks(x.blocks), d_q(x.q_start), d_kv(x.kv_len), d_pos(x.pos),
      d_slot(x.slot), rope(x.cos_sin), none(std::vector<int32_t>(size_t(x.seqs), 0));
  const Memory qkv(size_t(x.tokens) * columns * 6), out(size_t(x.tokens) * columns * 2);
  const Memory workspace(attention_workspace_bytes(x.tokens, x.kv, x.heads, x.head_dim));
  ok(cudaMemset(workspace.data(), 0, workspace.bytes()), "cudaMemset");
  for (const Memory* m : {&k, &v, &qkv}) fill<<<4096, 256, 0, stream>>>(m->data<uint16_t>(), m->bytes() / 2, 7);
  Step s{.tokens = x.tokens, .seqs = x.seqs, .max_q = x.q, .max_kv = x.kv};
  s.pos = d_pos.data<int32_t>(), s.slot = d_slot.data<int32_t>(), s.q_start = d_q.data<int32_t>();
  s.blocks = d_blocks.data<int32_t>(), s.blocks_ld = x.table;
  const auto time = [&](const Memory& kv_len) {
    s.kv_len = kv_len.data<int32_t>();
    return median_us(stream,
                     [&] {
                       for (int layer = 0; layer < x.layers; layer++)
                         attention(
                             {.out = {.data = out.data(), .rows = x.tokens, .cols = columns, .ld = columns, .dtype = DType::f16},
                              .qkv = {.data = qkv.data(), .rows = x.tokens, .cols = columns * 3, .ld = columns * 3, .dtype = DType::f16},
                              .kv = {.k = k.data<char>() + layer * x.bytes,
                                     .v = v.data<char>() + layer * x.bytes,
                                     .dtype = DType::f16,
                                     .heads = x.heads,
                                     .head_dim = x.head_dim,
                                     .block = Load::kBlock},
                              .step = s,
                              .rope = {.cos_sin = rope.data<float>(), .half = x.head_dim / 8},
                              .scale = 0.1f},
                             workspace.data(), workspace.bytes(), {.handle = stream, .early = kernels_can_wait()});
                     }) /
           x.layers;
  };
  const double us = time(d_kv), limit = x.q == 1 ? x.kv_bytes() / rate : x.flops() / 750e6 + x.append_bytes() / rate;
  std::printf("%2d heads x %3d, %s %2d x %4d: %7.1f us, limit %7.1f (%3.0f %%)", x.heads, x.head_dim, x.q == 1 ? "decode " : "prefill",
              x.seqs, x.kv, us, limit, 100 * limit / us);
  if (x.q > 1) {
    const double append = time(none);
    std::printf("; rotate and append alone %.1f, limit %.1f; the rest %.0f TFLOP/s", append, x.append_bytes() / rate,
                x.flops() / (us - append) / 1e6);
  }
  std::printf("\n");
}

}  // namespace

void time_all() {
  cudaStream_t stream;
  ok(cudaStreamCreate(&stream), "stream");
  const double rate = read_rate(stream);
  cudaDeviceProp card;
  ok(cudaGetDeviceProperties(&card, 0), "properties");
  std::printf("%s: plain read %.2f TB/s; prefill limits at 750 TFLOP/s\n", card.name, rate / 1e6);
  for (int heads : {64, 32})
    for (const auto& [seqs, kv] :
         {std::pair{1, 128}, {1, 512}, {1, 1920}, {1, 2048}, {8, 128}, {8, 512}, {8, 1024}, {32, 512}, {64, 576}, {64, 2048}})
      time_one({.seqs = seqs, .kv = kv, .q = 1, .heads = heads}, rate, stream);
  for (const Shape& shape : {Shape{1, 512, 512}, {8, 512, 512}, {1, 2048, 2048}, {4, 2048, 2048}}) time_one(shape, rate, stream);
  for (int head_dim : {64, 128, 256, 32})
    for (const Shape& shape : {Shape{1, 512, 1, head_dim}, {64, 576, 1, head_dim}, {1, 2048, 2048, head_dim}})
      time_one(shape, rate, stream);
  ok(cudaStreamDestroy(stream), "stream");
}

}  // namespace neox::cuda::trial
