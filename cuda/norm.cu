// SPDX-License-Identifier: Apache-2.0
// add_norm: x += add + bias; out = norm(x), out2 = norm2(x), each optional.
//   x, add [tokens, hidden] f32; bias, gamma, beta [1, hidden] f32; out, out2 [tokens, hidden] in the activation type.
// Floor: x and add read once, x, out and out2 written once.
#include "norm.cuh"

#include "cuda_backend.h"

namespace neox {
namespace cuda {
namespace {

template <bool Vector, class E> __global__ __launch_bounds__(kNormThreads) void add_norm_kernel(NormRow r) {
  extern __shared__ Pack<float, 4> row[];
  grid_launch();
  grid_wait();
  float* x = r.x + blockIdx.x * r.x_ld;
  for_fours(r.cols, [&](int first) {
    Fours v = Fours::load<Vector>(x, first, r.cols), add, bias;
    if (r.add) add = Fours::load<Vector>(r.add + blockIdx.x * r.add_ld, first, r.cols);
    if (r.bias) bias = Fours::load<Vector>(r.bias, first, r.cols);
#pragma unroll
    for (int j = 0; j < kFours; j++) {
      const int c = Fours::c(first, j);
      if (c >= r.cols) continue;
      for (int i = 0; r.add && i < 4; i++) v.of[j].v[i] += add.of[j].v[i];
      for (int i = 0; r.bias && i < 4; i++) v.of[j].v[i] += bias.of[j].v[i];
      if (r.add || r.bias) store<Vector>(x, c, r.cols, v.of[j]);
      row[c / 4] = v.of[j];
    }
  });
  norm_row<Vector, E>(r, blockIdx.x, row);
}

}  // namespace
}  // namespace cuda

void CudaBackend::add_norm(const AddNormArgs& a) {
  if (a.x.rows == 0 || !(a.norm || a.add || a.bias)) return;
  const cuda::Launch shape = cuda::norm_shape("add_norm", a, stream_);
  dispatch(a.out.dtype, [&](auto t) {
    using E = cuda::Element<t>;
    cuda::launch(shape, cuda::vector_rows(a) ? cuda::add_norm_kernel<true, E> : cuda::add_norm_kernel<false, E>, cuda::norm_row_of(a));
  });
}

}  // namespace neox
