// SPDX-License-Identifier: Apache-2.0
// Attention of prefill rows as FasterTransformer computes it without FMHA: S = scale q k^T, softmax of its rows, P v, with S and P in
// memory. Sequence after sequence, and of each as many heads at once as the scratch holds, so that it does not grow with their number:
//   k, v [heads][keys][head_dim] gathered from the pages, S [heads][rows][keys] f32 or the activations' type, P likewise in the
//   activations' type, over S where that is S's. Keys are padded to whole units by zeros.
// Floor: S written once and read once, P likewise: 4 to 12 bytes a score, where fused attention has none. No template instantiations.
#include "attention_common.cuh"

namespace neox::cuda::attn {
namespace {

constexpr int kThreads = 256;

/// grid: (units, heads, k and v). to [heads][units * kUnit][head_dim], of type act.
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ Args p, int s, int head, int keys, void* k, void* v) {
  grid_launch();
  grid_wait();
  const int first = blockIdx.x * kUnit, elements = kUnit * p.head_dim;
  const int64_t from = unit_at(p, s, head + blockIdx.y, first);
  const int64_t to = (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * elements;
  for (int i = threadIdx.x * 8; i < elements; i += kThreads * 8) {
    float x[8] = {};
    if (first + i / p.head_dim < keys) load8(blockIdx.z ? p.v : p.k, p.kv, from + i, true, x);
    store8(blockIdx.z ? v : k, p.act, to + i, true, x);
  }
}

/// grid: (rows, heads). Row r sees keys up to `seen` + r; the others' weights are 0.
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(const void* scores, DType score_type, void* weights, DType type, int padded, int seen) {
  grid_launch();
  grid_wait();
  const int64_t row = (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * padded;
  const int keys = seen + int(blockIdx.x) + 1;
  float most = -INFINITY, sum = 0;
  for (int i = threadIdx.x; i < keys; i += kThreads) most = fmaxf(most, load(scores, score_type, row + i));
  most = reduce(most, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
  for (int i = threadIdx.x; i < keys; i += kThreads) sum += expf(load(scores, score_type, row + i) - most);
  const float scale = 1.f / reduce_sum(sum);
  for (int i = threadIdx.x; i < padded; i += kThreads)  // each thread reads the scores that it overwrites
    store(weights, type, row + i, i < keys ? expf(load(scores, score_type, row + i) - most) * scale : 0.f);
}

int padded(int keys) { return (keys + kUnit - 1) / kUnit * kUnit; }

/// Of one head.
struct Sizes {
  size_t kv, scores, weights;  // bytes of k or v, of S, and of P where it does not lie over S
  size_t all() const { return 2 * kv + scores + weights; }
};
Sizes sizes(int64_t rows, int64_t keys, int64_t head_dim, DType act, bool f32_scores) {
  const auto whole = [](int64_t bytes) { return size_t(bytes + 255) / 256 * 256; };
  const auto size = int64_t(size_of(act));
  return {.kv = whole(keys * head_dim * size),
          .scores = whole(rows * keys * (f32_scores ? 4 : size)),
          .weights = f32_scores && act != DType::f32 ? whole(rows * keys * size) : 0};
}

/// Some heads of one sequence.
class Block {
 public:
  Block(const AttentionArgs& call, const Args& args, const Unfused& how, const Stream& stream, int s)
      : call_(call), args_(args), how_(how), stream_(stream), s_(s), first_(call.step.host_q_start[s]),
        rows_(call.step.host_q_start[s + 1] - first_), keys_(call.step.host_kv_len[s]), padded_(padded(keys_)),
        score_type_(how.f32_scores ? DType::f32 : args.act), sizes_(sizes(rows_, padded_, args.head_dim, args.act, how.f32_scores)) {}
  int most_heads() const { return int(std::min<size_t>(how_.bytes / sizes_.all(), 65535)); }
  int rows() const { return rows_; }

  void run(int head, int heads) const {
    char* const k = static_cast<char*>(how_.scratch);
    char *const v = k + heads * sizes_.kv, *const scores = v + heads * sizes_.kv;
    char* const weights = sizes_.weights ? scores + heads * sizes_.scores : scores;
    launch({.name = "attention, gather", .grid = dim3(unsigned(padded_ / kUnit), unsigned(heads), 2), .block = kThreads, .stream = stream_},
           gather_kernel, args_, s_, head, keys_, k, v);
    const int64_t D = args_.head_dim, square = int64_t(rows_) * padded_;
    const Tensor q = view(call_.qkv.from(first_), head * 3 * D, D), out = view(call_.out.from(first_), head * D, D);
    how_.gemm.run({.out = matrix(scores, rows_, padded_, score_type_),
                   .x = q,
                   .w = matrix(k, padded_, D, args_.act),
                   .batch = {.count = heads, .out = square, .x = 3 * D, .w = padded_ * D},
                   .scale = args_.scale});
    launch({.name = "attention, softmax", .grid = dim3(unsigned(rows_), unsigned(heads)), .block = kThreads, .stream = stream_},
           softmax_kernel, scores, score_type_, weights, args_.act, padded_, keys_ - rows_);
    how_.gemm.run({.out = out,
                   .x = matrix(weights, rows_, padded_, args_.act),
                   .w = matrix(v, padded_, D, args_.act),
                   .order = Gemm::Order::by_inputs,
                   .batch = {.count = heads, .out = D, .x = square, .w = padded_ * D}});
  }

 private:
  static Tensor matrix(void* data, int64_t rows, int64_t cols, DType type) {
    return {.data = data, .rows = rows, .cols = cols, .ld = cols, .dtype = type};
  }
  Tensor view(Tensor t, int64_t column, int64_t cols) const {
    t.data = static_cast<char*>(t.data) + column * int64_t(size_of(t.dtype));
    t.rows = rows_, t.cols = cols;
    return t;
  }

  const AttentionArgs& call_;
  const Args& args_;
  const Unfused& how_;
  const Stream& stream_;
  const int s_, first_, rows_, keys_, padded_;
  const DType score_type_;
  const Sizes sizes_;
};

}  // namespace

void prefill_unfused(const AttentionArgs& call, const Args& args, const Unfused& how, const Stream& stream) {
  require(call.step.host_q_start && call.step.host_kv_len, "attention: the unfused way needs the step's lengths on the host");
  for (int s = 0; s < args.seqs; s++) {
    const Block block(call, args, how, stream, s);
    if (block.rows() <= 1) continue;
    const int most = block.most_heads();
    require(most > 0, "attention: a scratch of ", how.bytes, " bytes is too small for ", block.rows(), " rows");
    for (int head = 0; head < args.heads; head += most) block.run(head, std::min(most, args.heads - head));
  }
}

}  // namespace neox::cuda::attn

namespace neox::cuda {

size_t unfused_bytes(int32_t max_tokens, int32_t max_kv, int32_t head_dim) {
  constexpr size_t kLeast = size_t(128) << 20;  // so that short sequences have many heads at once
  const size_t widest = std::max(attn::sizes(max_tokens, attn::padded(max_kv), head_dim, DType::f32, true).all(),
                                 attn::sizes(max_tokens, attn::padded(max_kv), head_dim, DType::f16, true).all());
  return std::max(kLeast, widest);
}

}  // namespace neox::cuda
