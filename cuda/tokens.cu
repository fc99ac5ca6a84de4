// SPDX-License-Identifier: Apache-2.0
// Ops that move rows: embed, gather_rows, copy_blocks.
#include "cuda_backend.h"
#include "device.cuh"
#include "types.cuh"

namespace neox {
namespace cuda {
namespace {

constexpr int kThreads = 256;

/// out[t] = table[ids[t]] as f32; an id of -1 - k is the one that sampled[k] drew, vocab + k is row k of pool. A CTA a row. Floor: the rows
/// of the table read once, out written once.
template <class E>
__global__ __launch_bounds__(kThreads) void embed_kernel(float* out, int64_t out_ld, const int32_t* ids, const Sample* sampled,
                                                         const E* table, int64_t table_ld, int64_t vocab, const float* pool,
                                                         int64_t pool_ld, int64_t cols) {
  grid_wait();
  grid_launch();  // not before: what copy_blocks writes is complete when the step's attention starts, which reads it before it waits
  const int32_t id = ids[blockIdx.x];
  float* to = out + blockIdx.x * out_ld;
  if (id < vocab) {
    const E* from = table + (id < 0 ? sampled[-1 - id].id : id) * table_ld;
    for (int64_t c = threadIdx.x; c < cols; c += kThreads) to[c] = widen(from[c]);
  } else {
    const float* from = pool + (id - vocab) * pool_ld;
    for (int64_t c = threadIdx.x; c < cols; c += kThreads) to[c] = from[c];
  }
}

/// out[i] = x[rows[i]], in words of type W. A CTA a row. Floor: the rows read and written once.
template <class W>
__global__ __launch_bounds__(kThreads) void gather_kernel(W* out, int64_t out_ld, const W* x, int64_t x_ld, const int32_t* rows,
                                                          int64_t cols) {
  grid_launch();
  grid_wait();
  const W* from = x + rows[blockIdx.x] * x_ld;
  W* to = out + blockIdx.x * out_ld;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) to[c] = from[c];
}

/// Pages are copied pair after pair, since a page may be read by one pair and written by a later one. Every thread does so for its own 16
/// bytes of a page, so that no thread waits for another. Floor: the pages read and written once.
__global__ __launch_bounds__(kThreads) void copy_kernel(uint4* k, uint4* v, const int32_t* pairs, int32_t count, int64_t page) {
  grid_launch();
  grid_wait();
  uint4* cache = blockIdx.y == 0 ? k : v;
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= page) return;
  for (int32_t p = 0; p < count; p++) cache[pairs[2 * p + 1] * page + i] = cache[pairs[2 * p] * page + i];
}

template <class W> void gather(const GatherArgs& a, const Stream& stream) {
  const int64_t ratio = int64_t(sizeof(W) / size_of(a.x.dtype));
  launch({.name = "gather_rows", .grid = unsigned(a.out.rows), .block = kThreads, .stream = stream}, gather_kernel<W>,
         static_cast<W*>(a.out.data), a.out.ld / ratio, static_cast<const W*>(a.x.data), a.x.ld / ratio, a.rows, a.out.cols / ratio);
}

bool whole_words(const Tensor& t, size_t word) {
  const size_t size = size_of(t.dtype);
  return (reinterpret_cast<uintptr_t>(t.data) | size_t(t.ld) * size | size_t(t.cols) * size) % word == 0;
}

}  // namespace
}  // namespace cuda

void CudaBackend::embed(const EmbedArgs& a) {
  if (a.out.rows == 0) return;
  dispatch(a.table.dtype, [&](auto t) {
    using E = cuda::Element<t>;
    cuda::launch({.name = "embed", .grid = unsigned(a.out.rows), .block = cuda::kThreads, .stream = stream_}, cuda::embed_kernel<E>,
                 a.out.row(0), a.out.ld, a.ids, a.sampled, a.table.row<const E>(0), a.table.ld, a.table.rows, a.pool.row<const float>(0),
                 a.pool.ld, a.out.cols);
  });
}

void CudaBackend::gather_rows(const GatherArgs& a) {
  if (a.out.rows == 0) return;
  if (cuda::whole_words(a.out, 16) && cuda::whole_words(a.x, 16)) cuda::gather<uint4>(a, stream_);
  else if (a.x.dtype == DType::f32) cuda::gather<uint32_t>(a, stream_);
  else cuda::gather<uint16_t>(a, stream_);
}

void CudaBackend::copy_blocks(const CopyBlocksArgs& a) {
  if (a.count == 0) return;
  const auto page = int64_t(page_bytes(a.kv) / sizeof(uint4));  // a page holds 16 positions or more, hence whole words
  cuda::launch({.name = "copy_blocks",
                .grid = dim3(unsigned((page + cuda::kThreads - 1) / cuda::kThreads), 2),
                .block = cuda::kThreads,
                .stream = stream_},
               cuda::copy_kernel, static_cast<uint4*>(a.kv.k), static_cast<uint4*>(a.kv.v), a.pairs, a.count, page);
}

}  // namespace neox
