// SPDX-License-Identifier: Apache-2.0
// exchange_add_norm: exchange_sum and the add_norm that follows it, in one kernel, with the bits of those two. A CTA a row: sums go to x
// and to shared memory, never to memory on their own, and the row's norms are taken from there. One launch less a layer.
#include "exchange.cuh"
#include "norm.cuh"

namespace neox::cuda {
namespace {

/// W: what travels; E: of the norms.
template <class W, class E, int Most>
__global__ __launch_bounds__(kNormThreads) void sum_add_norm_kernel(const __grid_constant__ Peers p, const __grid_constant__ NormRow r) {
  extern __shared__ Pack<float, 4> row[];  // [cols / 4] the new x
  constexpr int n = kPacked<W>;
  const int packets = r.cols / n, first = int(blockIdx.x) * packets;
  const float* add = r.add + blockIdx.x * r.add_ld;
  float* x = r.x + blockIdx.x * r.x_ld;
  exchange<Most>(
      p, int(gridDim.x) * packets, {.first = first + int(threadIdx.x), .stride = int(blockDim.x), .end = first + packets},
      [&](int i) { return pack<W>(add + (i - first) * n); },
      [&](int i, const uint4(&all)[Most]) {
        float sum[n] = {};
        add_all<W>(sum, p.ranks, all);
#pragma unroll
        for (int j = 0; j < n; j += 4) {
          const int c = (i - first) * n + j;
          Pack<float, 4> v = load<true>(x, c, r.cols);
          for (int k = 0; k < 4; k++) v.v[k] += sum[j + k];
          if (r.bias) {
            const Pack<float, 4> bias = load<true>(r.bias, c, r.cols);
            for (int k = 0; k < 4; k++) v.v[k] += bias.v[k];
          }
          store<true>(x, c, r.cols, v);
          row[c / 4] = v;
        }
      });
  __syncthreads();
  norm_row<true, E>(r, row);
}

}  // namespace

bool can_exchange_add_norm(const AddNormArgs& a, DType wire) {
  return a.add && a.x.rows <= std::min(attribute(cudaDevAttrMultiProcessorCount), kExchangeCells) &&
         a.x.cols % int64_t(16 / size_of(wire)) == 0 && vector_rows(a);
}

void exchange_add_norm(const Peers& p, const AddNormArgs& a, DType wire, const Stream& stream) {
  const Launch shape = norm_shape("all-reduce and add_norm", a, stream);
  dispatch(wire, [&](auto sent) {
    dispatch(a.out.dtype, [&](auto out) {
      with_most(p.ranks, [&](auto most) { launch(shape, sum_add_norm_kernel<Element<sent>, Element<out>, most>, p, norm_row_of(a)); });
    });
  });
}

}  // namespace neox::cuda
