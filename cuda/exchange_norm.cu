// SPDX-License-Identifier: Apache-2.0
// exchange_add_norm: exchange_sum and the add_norm that follows it, in one kernel, with the bits of those two. A CTA has some rows: their
// sums go to x and to shared memory, never to memory on their own, and their norms are taken from there. It sends rows ahead of the one
// that it waits for, so that with many rows the link is busy throughout. Floor: bytes / 370 GB/s, under which x, add and the norms have
// time.
#include "exchange.cuh"
#include "norm.cuh"

namespace neox::cuda {
namespace {

constexpr int kAhead = 2;  // rows that are sent before the first of them is waited for

/// E: what travels, and the norms. Many: rows of a CTA; else it has one.
/// Shared memory: [kBuffers][cols / 4], of each row on its way x, which becomes the new x.
/// Many rows of two ranks take 64 registers, so that two CTAs are on a processor; of few rows each is sooner done with more.
template <class E, int Most, bool Many>
__global__ __launch_bounds__(kNormThreads, (Many && Most <= 2 ? 2 : 1)) void sum_add_norm_kernel(const __grid_constant__ Peers p,
                                                                                                 const __grid_constant__ NormRow r,
                                                                                                 int rows) {
  constexpr int n = kPacked<E>, kBegun = Many ? kAhead : 1, kBuffers = Many ? kAhead + 1 : 1;
  extern __shared__ Pack<float, 4> buffers[];
  const int packets = r.cols / n;
  const auto own = [&](int at) {
    return Own{.first = at * packets + int(threadIdx.x), .stride = int(blockDim.x), .end = at < rows ? (at + 1) * packets : 0};
  };
  const auto make = [&](int at) { return [&, at](int i) { return pack<E>(r.add + at * r.add_ld + (i - at * packets) * n); }; };
  const auto buffer = [&](int turn) { return buffers + turn % kBuffers * (r.cols / 4); };
  Message<Most> message(p);
  const auto begin = [&](int turn) {
    const int at = int(blockIdx.x) + turn * int(gridDim.x);
    const Own mine = own(at);
    message.send(mine, make(at));
    for (int i = mine.first; i < mine.end; i += mine.stride) {
      const int c = (i - at * packets) * n;
#pragma unroll
      for (int j = 0; j < n; j += 4) copy16(buffer(turn) + (c + j) / 4, r.x + at * r.x_ld + c + j, true);
    }
    copy_commit();
  };
  for (int turn = 0; turn < kBegun; turn++) begin(turn);
  message.settle(rows * packets);
  for (int turn = 0, at = int(blockIdx.x); at < rows && (Many || turn == 0); turn++, at += int(gridDim.x)) {
    copy_wait<kBegun - 1>();
    Pack<float, 4>* const row = buffer(turn);
    message.take(own(at), make(at), [&](int i, const uint4(&all)[Most]) {
      float sum[n] = {};
      add_all<E>(sum, p.ranks, all);
#pragma unroll
      for (int j = 0; j < n; j += 4) {
        const int c = (i - at * packets) * n + j;
        Pack<float, 4> v = row[c / 4];
        for (int k = 0; k < 4; k++) v.v[k] += sum[j + k];
        if (r.bias) {
          const Pack<float, 4> bias = load<true>(r.bias, c, r.cols);
          for (int k = 0; k < 4; k++) v.v[k] += bias.v[k];
        }
        store<true>(r.x + at * r.x_ld, c, r.cols, v);
        row[c / 4] = v;
      }
    });
    __syncthreads();  // the row is whole, and the one before has been read
    if constexpr (Many) begin(turn + kAhead);
    norm_row<true, E>(r, at, row);
  }
  message.end();
}

/// CTAs of this shape that are on a processor at once.
template <class... P> unsigned per_processor(const Launch& shape, void (*kernel)(P...)) {
  int ctas = 0;
  give_shared(shape, kernel);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, kernel, int(shape.block.x), shape.shared), "ask how much runs at once");
  return unsigned(std::max(1, ctas));
}

}  // namespace

bool can_exchange_add_norm(const AddNormArgs& a, DType wire) {
  return a.add && (!a.norm || a.out.dtype == wire) && a.x.cols % int64_t(16 / size_of(wire)) == 0 && vector_rows(a);
}

void exchange_add_norm(const Peers& p, const AddNormArgs& a, DType wire, const Stream& stream, int most) {
  Launch shape = norm_shape("all-reduce and add_norm", a, stream);
  const int rows = int(shape.grid.x), processors = attribute(cudaDevAttrMultiProcessorCount);
  dispatch(wire, [&](auto type) {
    with_most(p.ranks, [&](auto ranks) {
      using E = Element<type>;
      // All CTAs have to run at once, since each waits for another rank's, which waits for it. One a processor does.
      if (rows <= std::min(processors, most)) return launch(shape, sum_add_norm_kernel<E, ranks, false>, p, norm_row_of(a), rows);
      const auto kernel = sum_add_norm_kernel<E, ranks, true>;
      shape.shared *= kAhead + 1;
      shape.grid = std::min({shape.grid.x, per_processor(shape, kernel) * unsigned(processors), unsigned(most)});
      launch(shape, kernel, p, norm_row_of(a), rows);
    });
  });
}

}  // namespace neox::cuda
