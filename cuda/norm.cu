// SPDX-License-Identifier: Apache-2.0
// add_norm: x += add + bias; out = norm(x), out2 = norm2(x), each optional.
//   x, add [tokens, hidden] f32; bias, gamma, beta [1, hidden] f32; out, out2 [tokens, hidden] in the activation type.
// A CTA a row; a thread has the same four neighbouring columns out of every 4 * threads in all passes, and keeps them in shared memory, so
// that the variance is taken around the mean at no further traffic. The order of summation depends on hidden alone.
// Floor: x and add read once, x, out and out2 written once.
#include "cuda_backend.h"
#include "device.cuh"
#include "types.cuh"

namespace neox {
namespace cuda {
namespace {

constexpr int kMostThreads = 512;

struct Normed {
  const float *gamma, *beta;
  void* out;  // null: not asked
  int64_t ld;
  float eps;
};
struct Row {
  float* x;
  const float *add, *bias;  // or null
  int64_t x_ld, add_ld;
  int cols;
  Normed norms[2];
};

/// Four columns from c on. Vector: rows lie at multiples of 16 bytes and have a multiple of 4 columns; else columns past the end are 0.
template <bool Vector> __device__ Pack<float, 4> load(const float* row, int c, int cols) {
  Pack<float, 4> p;
  if constexpr (Vector) p = *reinterpret_cast<const Pack<float, 4>*>(row + c);
  else
    for (int i = 0; i < 4; i++) p.v[i] = c + i < cols ? row[c + i] : 0.f;
  return p;
}
template <bool Vector, class E> __device__ void store(E* row, int c, int cols, const Pack<float, 4>& p) {
  Pack<E, 4> narrowed;
  for (int i = 0; i < 4; i++) narrowed.v[i] = narrow<E>(p.v[i]);
  if constexpr (Vector) *reinterpret_cast<Pack<E, 4>*>(row + c) = narrowed;
  else
    for (int i = 0; i < 4; i++)
      if (c + i < cols) row[c + i] = narrowed.v[i];
}

template <bool Vector, class E>
__device__ void normalize(const Pack<float, 4>* row, float mean, float variance, const Normed& n, int cols) {
  const float scale = 1.f / sqrtf(variance + n.eps);
  E* out = static_cast<E*>(n.out) + blockIdx.x * n.ld;
  for (int c = threadIdx.x * 4; c < cols; c += blockDim.x * 4) {
    const Pack<float, 4> gamma = load<Vector>(n.gamma, c, cols), beta = load<Vector>(n.beta, c, cols);
    Pack<float, 4> y = row[c / 4];
    for (int i = 0; i < 4; i++) y.v[i] = fmaf((y.v[i] - mean) * scale, gamma.v[i], beta.v[i]);
    store<Vector>(out, c, cols, y);
  }
}

template <bool Vector, class E> __global__ __launch_bounds__(kMostThreads) void add_norm_kernel(Row r) {
  extern __shared__ Pack<float, 4> row[];  // [ceil(cols / 4)] the new x
  grid_launch();
  grid_wait();
  float* x = r.x + blockIdx.x * r.x_ld;
  float sum = 0;
  for (int c = threadIdx.x * 4; c < r.cols; c += blockDim.x * 4) {
    Pack<float, 4> v = load<Vector>(x, c, r.cols);
    if (r.add) {
      const Pack<float, 4> add = load<Vector>(r.add + blockIdx.x * r.add_ld, c, r.cols);
      for (int i = 0; i < 4; i++) v.v[i] += add.v[i];
    }
    if (r.bias) {
      const Pack<float, 4> bias = load<Vector>(r.bias, c, r.cols);
      for (int i = 0; i < 4; i++) v.v[i] += bias.v[i];
    }
    if (r.add || r.bias) store<Vector>(x, c, r.cols, v);
    row[c / 4] = v;
    sum += (v.v[0] + v.v[1]) + (v.v[2] + v.v[3]);
  }
  if (!r.norms[0].out) return;
  const float mean = reduce_sum(sum) / float(r.cols);
  float spread = 0;
  for (int c = threadIdx.x * 4; c < r.cols; c += blockDim.x * 4)
    for (int i = 0; i < 4; i++)
      if (const float d = row[c / 4].v[i] - mean; Vector || c + i < r.cols) spread = fmaf(d, d, spread);
  const float variance = reduce_sum(spread) / float(r.cols);
  for (const Normed& n : r.norms)
    if (n.out) normalize<Vector, E>(row, mean, variance, n, r.cols);
}

Normed normed(const Norm* norm, const Tensor& out) {
  if (!norm) return {};
  return {.gamma = norm->gamma.row(0), .beta = norm->beta.row(0), .out = out.data, .ld = out.ld, .eps = norm->eps};
}

bool vector_rows(const AddNormArgs& a) {
  bool whole = a.x.cols % 4 == 0;
  const auto look = [&](const Tensor& t) {
    const auto word = uintptr_t(4 * size_of(t.dtype));
    whole = whole && reinterpret_cast<uintptr_t>(t.data) % word == 0 && (t.rows < 2 || t.ld % 4 == 0);
  };
  for (const Tensor& t : {a.x, a.add, a.bias, a.out, a.out2}) look(t);
  for (const Norm* n : {a.norm, a.norm2})
    if (n) look(n->gamma), look(n->beta);
  return whole;
}

template <bool Vector, class E> void run(const Row& row, int64_t rows, const Stream& stream) {
  const int groups = (row.cols + 3) / 4, threads = std::min((groups + 31) / 32 * 32, kMostThreads);
  const size_t shared = size_t(groups) * sizeof(Pack<float, 4>);
  launch({.name = "add_norm", .grid = unsigned(rows), .block = unsigned(threads), .stream = stream, .shared = shared},
         add_norm_kernel<Vector, E>, row);
}

}  // namespace
}  // namespace cuda

void CudaBackend::add_norm(const AddNormArgs& a) {
  if (a.x.rows == 0 || !(a.norm || a.add || a.bias)) return;
  const cuda::Row row{.x = a.x.row(0),
                      .add = a.add ? a.add.row(0) : nullptr,
                      .bias = a.bias ? a.bias.row(0) : nullptr,
                      .x_ld = a.x.ld,
                      .add_ld = a.add.ld,
                      .cols = int(a.x.cols),
                      .norms = {cuda::normed(a.norm, a.out), cuda::normed(a.norm2, a.out2)}};
  dispatch(a.out.dtype, [&](auto t) {
    using E = cuda::Element<t>;
    if (cuda::vector_rows(a)) cuda::run<true, E>(row, a.x.rows, stream_);
    else cuda::run<false, E>(row, a.x.rows, stream_);
  });
}

}  // namespace neox
