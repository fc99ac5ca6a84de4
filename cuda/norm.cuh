// SPDX-License-Identifier: Apache-2.0
// The norms of a row that a CTA has in shared memory, once x is what it is to become. A thread has the same four neighbouring columns out
// of every 4 * threads in all passes; the variance is taken around the mean. The order of summation depends on hidden alone.
#pragma once
#include "backend/backend.h"
#include "check.h"
#include "device.cuh"
#include "types.cuh"

namespace neox::cuda {

constexpr int kNormThreads = 512;

struct Normed {
  const float *gamma, *beta;
  void* out;  // null: not asked
  int64_t ld;
  float eps;
};
struct NormRow {
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
#pragma unroll
    for (int i = 0; i < 4; i++) p.v[i] = c + i < cols ? row[c + i] : 0.f;
  return p;
}

/// This thread's columns, some fours at a time, of which the i-th begins at c(i).
constexpr int kFours = 3;  // 6144 columns of 512 threads
struct Fours {
  Pack<float, 4> of[kFours];
  static __device__ int c(int first, int i) { return first + i * int(blockDim.x) * 4; }
  /// All on their way at once: what is stored between two loads would make the second wait for the first.
  template <bool Vector> __device__ static Fours load(const float* row, int first, int cols) {
    Fours f = {};
#pragma unroll
    for (int i = 0; i < kFours; i++)
      if (c(first, i) < cols) f.of[i] = cuda::load<Vector>(row, c(first, i), cols);
    return f;
  }
};
template <class Body> __device__ void for_fours(int cols, Body body) {  // body(the first's c)
  for (int first = threadIdx.x * 4; first < cols; first += kFours * blockDim.x * 4) body(first);
}
template <bool Vector, class E> __device__ void store(E* row, int c, int cols, const Pack<float, 4>& p) {
  Pack<E, 4> narrowed;
  for (int i = 0; i < 4; i++) narrowed.v[i] = narrow<E>(p.v[i]);
  if constexpr (Vector) *reinterpret_cast<Pack<E, 4>*>(row + c) = narrowed;
  else
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (c + i < cols) row[c + i] = narrowed.v[i];
}

template <bool Vector, class E>
__device__ void normalize(const Pack<float, 4>* row, float mean, float variance, const Normed& n, int64_t at, int cols) {
  const float scale = 1.f / sqrtf(variance + n.eps);
  E* out = static_cast<E*>(n.out) + at * n.ld;
  for_fours(cols, [&](int first) {
    const Fours gamma = Fours::load<Vector>(n.gamma, first, cols), beta = Fours::load<Vector>(n.beta, first, cols);
#pragma unroll
    for (int j = 0; j < kFours; j++) {
      const int c = Fours::c(first, j);
      if (c >= cols) continue;
      Pack<float, 4> y = row[c / 4];
      for (int i = 0; i < 4; i++) y.v[i] = fmaf((y.v[i] - mean) * scale, gamma.of[j].v[i], beta.of[j].v[i]);
      store<Vector>(out, c, cols, y);
    }
  });
}

/// row [ceil(cols / 4)]: the new x of row `at`, of which a thread reads what its own columns are.
template <bool Vector, class E> __device__ void norm_row(const NormRow& r, int64_t at, const Pack<float, 4>* row) {
  if (!r.norms[0].out) return;
  float sum = 0;
  for (int c = threadIdx.x * 4; c < r.cols; c += blockDim.x * 4)
    sum += (row[c / 4].v[0] + row[c / 4].v[1]) + (row[c / 4].v[2] + row[c / 4].v[3]);
  const float mean = reduce_sum(sum) / float(r.cols);
  float spread = 0;
  for (int c = threadIdx.x * 4; c < r.cols; c += blockDim.x * 4)
    for (int i = 0; i < 4; i++)
      if (const float d = row[c / 4].v[i] - mean; Vector || c + i < r.cols) spread = fmaf(d, d, spread);
  const float variance = reduce_sum(spread) / float(r.cols);
  for (const Normed& n : r.norms)
    if (n.out) normalize<Vector, E>(row, mean, variance, n, at, r.cols);
}

inline Normed normed(const Norm* norm, const Tensor& out) {
  if (!norm) return {};
  return {.gamma = norm->gamma.row(0), .beta = norm->beta.row(0), .out = out.data, .ld = out.ld, .eps = norm->eps};
}

/// Whether Vector may be true.
inline bool vector_rows(const AddNormArgs& a) {
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
inline NormRow norm_row_of(const AddNormArgs& a) {
  return {.x = a.x.row(0),
          .add = a.add ? a.add.row(0) : nullptr,
          .bias = a.bias ? a.bias.row(0) : nullptr,
          .x_ld = a.x.ld,
          .add_ld = a.add.ld,
          .cols = int(a.x.cols),
          .norms = {normed(a.norm, a.out), normed(a.norm2, a.out2)}};
}
/// A CTA a row.
inline Launch norm_shape(const char* name, const AddNormArgs& a, const Stream& stream) {
  const int groups = int(a.x.cols + 3) / 4;
  return {.name = name,
          .grid = unsigned(a.x.rows),
          .block = unsigned(std::min((groups + 31) / 32 * 32, kNormThreads)),
          .stream = stream,
          .shared = size_t(groups) * sizeof(Pack<float, 4>)};
}

}  // namespace neox::cuda
