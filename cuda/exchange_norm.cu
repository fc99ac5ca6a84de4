// SPDX-License-Identifier: Apache-2.0
// exchange_add_norm: exchange_sum and the add_norm that follows it, in one kernel, with the bits of those two. A CTA has some rows: their
// sums go to x and to shared memory, never to memory on their own, and their norms are taken from there. It sends rows ahead of the one
// that it waits for, so that with many rows the link is busy throughout. Floor: bytes / 370 GB/s, under which x, add and the norms have
// time.
#include "exchange.cuh"
#include "norm.cuh"

namespace neox::cuda {
namespace {

constexpr int kAhead = 2;  // rows

/// W: what travels; E: of the norms.
template <class W, class E, int Most>
__global__ __launch_bounds__(kNormThreads, Most <= 2 ? 2 : 1) void sum_add_norm_kernel(const __grid_constant__ Peers p,
                                                                                       const __grid_constant__ NormRow r, int rows) {
  extern __shared__ Pack<float, 4> row[];  // [cols / 4] the new x
  constexpr int n = kPacked<W>;
  const int packets = r.cols / n;
  const auto own = [&](int at) {
    return Own{.first = at * packets + int(threadIdx.x), .stride = int(blockDim.x), .end = at < rows ? (at + 1) * packets : 0};
  };
  const auto make = [&](int at) { return [&, at](int i) { return pack<W>(r.add + at * r.add_ld + (i - at * packets) * n); }; };
  Message<Most> message(p);
  int ahead = int(blockIdx.x);
  for (int i = 0; i < kAhead; i++, ahead += int(gridDim.x)) message.send(own(ahead), make(ahead));
  message.settle(rows * packets);
  for (int at = int(blockIdx.x); at < rows; at += int(gridDim.x), ahead += int(gridDim.x)) {
    message.send(own(ahead), make(ahead));
    float* x = r.x + at * r.x_ld;
    message.take(own(at), make(at), [&](int i, const uint4(&all)[Most]) {
      float sum[n] = {};
      add_all<W>(sum, p.ranks, all);
#pragma unroll
      for (int j = 0; j < n; j += 4) {
        const int c = (i - at * packets) * n + j;
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
    norm_row<true, E>(r, at, row);
    __syncthreads();  // all have read this row
  }
  message.end();
}

/// As many CTAs as run at once, since each waits for what the same one of another rank sends.
template <class... P> unsigned fitting(const Launch& shape, void (*kernel)(P...)) {
  const int processors = attribute(cudaDevAttrMultiProcessorCount);
  int each = 1;
  if (int(shape.grid.x) > processors)
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, int(shape.block.x), shape.shared), "ask how much runs at once");
  return unsigned(std::min({int(shape.grid.x), each * processors, kExchangeCells}));
}

}  // namespace

bool can_exchange_add_norm(const AddNormArgs& a, DType wire) {
  return a.add && a.x.cols % int64_t(16 / size_of(wire)) == 0 && vector_rows(a);
}

void exchange_add_norm(const Peers& p, const AddNormArgs& a, DType wire, const Stream& stream, int most) {
  Launch shape = norm_shape("all-reduce and add_norm", a, stream);
  dispatch(wire, [&](auto sent) {
    dispatch(a.out.dtype, [&](auto out) {
      with_most(p.ranks, [&](auto ranks) {
        const auto kernel = sum_add_norm_kernel<Element<sent>, Element<out>, ranks>;
        shape.grid = std::min(fitting(shape, kernel), unsigned(most));
        launch(shape, kernel, p, norm_row_of(a), int(a.x.rows));
      });
    });
  });
}

}  // namespace neox::cuda
