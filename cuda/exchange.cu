// SPDX-License-Identifier: Apache-2.0
// exchange_sum, exchange_parts: collectives by one shot (exchange.cuh), and what other ways of summing need.
#include "exchange.cuh"

namespace neox::cuda {
namespace {

template <class E, int Most>
__global__ __launch_bounds__(512) void sum_kernel(const __grid_constant__ Peers p, const __grid_constant__ Rows x) {
  constexpr int n = kPacked<E>;
  const int count = x.rows * x.packets;
  exchange<Most>(
      p, count, [&](int i) { return pack<E>(place(x, i, n)); },
      [&](int i, const uint4(&packets)[Most]) {
        float sum[n] = {};
        add_all<E>(sum, p.ranks, packets);
        float* to = place(x, i, n);
#pragma unroll
        for (int j = 0; j < n; j += 4) *reinterpret_cast<float4*>(to + j) = {sum[j], sum[j + 1], sum[j + 2], sum[j + 3]};
      });
}

template <int Most>
__global__ __launch_bounds__(512) void parts_kernel(const __grid_constant__ Peers p, const __grid_constant__ Rows part, float* out,
                                                    int64_t out_ld) {
  const int count = part.rows * part.packets;
  exchange<Most>(
      p, count, [&](int i) { return pack<float>(place(part, i, 4)); },
      [&](int i, const uint4(&packets)[Most]) {
        const int col = i % part.packets * 4;
        float* row = out + int64_t(i / part.packets) * out_ld + col;
#pragma unroll
        for (int r = 0; r < Most; r++)
          if (r < p.ranks) {
            Pack<float, 4> v;
            memcpy(&v, &packets[r], sizeof v);
#pragma unroll
            for (int j = 0; j < 4; j++)
              if (col + j < part.cols) row[int64_t(r) * part.cols + j] = v.v[j];
          }
      });
}

__global__ void fill_kernel(uint4* to, size_t n, uint32_t word) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    to[i] = {word, word, word, word};
}

template <class E> __global__ void pack_kernel(uint4* to, Rows x) {
  grid_launch();
  grid_wait();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < x.rows * x.packets; i += gridDim.x * blockDim.x)
    to[i] = pack<E>(place(x, i, kPacked<E>));
}
template <class E> __global__ void sum_wires_kernel(Rows x, const uint4* from, int ranks) {
  constexpr int n = kPacked<E>;
  grid_launch();
  grid_wait();
  const int count = x.rows * x.packets;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    float sum[n] = {};
    for (int r = 0; r < ranks; r++) add<E>(sum, from[int64_t(r) * count + i]);
    float* to = place(x, i, n);
#pragma unroll
    for (int j = 0; j < n; j += 4) *reinterpret_cast<float4*>(to + j) = {sum[j], sum[j + 1], sum[j + 2], sum[j + 3]};
  }
}
__global__ void place_parts_kernel(float* out, int64_t out_ld, const float* from, Rows part, int ranks) {
  grid_launch();
  grid_wait();
  const int64_t block = int64_t(part.rows) * part.ld;
  const float* row = from + blockIdx.y * part.ld;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < ranks * part.cols; i += gridDim.x * blockDim.x)
    out[blockIdx.y * out_ld + i] = row[i / part.cols * block + i % part.cols];
}

/// A thread for each packet, as far as all CTAs run at once: each waits for what the same one of another rank sends.
Launch shape(const char* name, int count, const Stream& stream) {
  const int threads = count <= 8192 ? 128 : 512, most = attribute(cudaDevAttrMultiProcessorCount) * (threads == 128 ? 2 : 1);
  return {.name = name,
          .grid = unsigned(std::min((count + threads - 1) / threads, std::min(most, kExchangeCells))),
          .block = unsigned(threads),
          .stream = stream};
}

}  // namespace

void clear_peers(const Peers& p, cudaStream_t stream) {
  fill_kernel<<<264, 512, 0, stream>>>(reinterpret_cast<uint4*>(p.areas[p.rank]), 3 * size_t(p.ranks) * p.capacity / 16, kEmpty);
  check(cudaGetLastError(), "fill memory");
  check(cudaMemsetAsync(p.cells, 0, kExchangeCells * sizeof(uint4), stream), "fill memory");
}

void exchange_sum(const Peers& p, const Tensor& x, DType wire, const Stream& stream) {
  dispatch(wire, [&](auto type) {
    using E = Element<type>;
    const Rows rows = rows_of(x, kPacked<E>);
    with_most(p.ranks, [&](auto most) { launch(shape("all-reduce", rows.rows * rows.packets, stream), sum_kernel<E, most>, p, rows); });
  });
}

void exchange_parts(const Peers& p, const Tensor& out, const Tensor& part, const Stream& stream) {
  const Rows rows = rows_of(part, 4);
  with_most(p.ranks, [&](auto most) {
    launch(shape("all-gather", rows.rows * rows.packets, stream), parts_kernel<most>, p, rows, out.row(0), out.ld);
  });
}

void pack_wire(void* to, const Tensor& x, DType wire, const Stream& stream) {
  dispatch(wire, [&](auto type) {
    using E = Element<type>;
    const Rows rows = rows_of(x, kPacked<E>);
    launch(shape("pack for the wire", rows.rows * rows.packets, stream), pack_kernel<E>, static_cast<uint4*>(to), rows);
  });
}

void sum_wires(const Tensor& x, const void* from, DType wire, int ranks, const Stream& stream) {
  dispatch(wire, [&](auto type) {
    using E = Element<type>;
    const Rows rows = rows_of(x, kPacked<E>);
    launch(shape("sum from the wire", rows.rows * rows.packets, stream), sum_wires_kernel<E>, rows, static_cast<const uint4*>(from), ranks);
  });
}

void place_parts(const Tensor& out, const void* from, const Tensor& part, int ranks, const Stream& stream) {
  const int cols = ranks * int(part.cols);
  launch({.name = "place parts",
          .grid = dim3(unsigned(std::min((cols + 255) / 256, 256)), unsigned(part.rows)),
          .block = 256,
          .stream = stream},
         place_parts_kernel, out.row(0), out.ld, static_cast<const float*>(from), rows_of(part, 4), ranks);
}

}  // namespace neox::cuda
