// SPDX-License-Identifier: Apache-2.0
// Weights [outputs, inputs]: row-major in the model's type. Their bytes come up as the checkpoint has them; another type is converted here.
// Floor of the conversion: each weight read and written once; of random ones: written once, and a Philox for each four.
#include <algorithm>
#include <array>

#include "cuda_backend.h"
#include "device.cuh"
#include "types.cuh"

namespace neox {
namespace cuda {
namespace {

constexpr int kThreads = 256;

template <class From, class To> __global__ __launch_bounds__(kThreads) void convert_kernel(const From* from, To* to, int64_t n) {
  grid_wait();
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) to[i] = narrow<To>(widen(from[i]));
}

void convert(const void* from, DType from_type, void* to, DType to_type, int64_t n, const Stream& stream) {
  const Launch l{.name = "convert weights", .grid = unsigned((n + kThreads - 1) / kThreads), .block = kThreads, .stream = stream};
  dispatch(from_type, [&](auto f) {
    dispatch(to_type, [&](auto t) {
      using From = Element<f>;
      using To = Element<t>;
      launch(l, convert_kernel<From, To>, static_cast<const From*>(from), static_cast<To*>(to), n);
    });
  });
}

/// A thread makes 4 elements of the whole, as far as they are in the part. grid: (fours of a row, rows, further rows)
template <class E> __global__ __launch_bounds__(kThreads) void random_kernel(E* to, int64_t rows, int64_t cols, RandomFill values) {
  grid_wait();
  const int64_t row = blockIdx.y + int64_t(blockIdx.z) * gridDim.y, begin = values.first + row * values.row;
  const int64_t block = begin / 4 + int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows || block * 4 >= begin + cols) return;
  const std::array<float, 4> four = random_values(values, block);
  for (int i = 0; i < 4; i++)
    if (const int64_t c = block * 4 + i - begin; c >= 0 && c < cols) to[row * cols + c] = narrow<E>(four[size_t(i)]);
}

}  // namespace
}  // namespace cuda

size_t CudaBackend::packed_bytes(int64_t outputs, int64_t inputs, Format format) const {
  return size_t(outputs * inputs) * size_of(format.dtype);
}

Tensor CudaBackend::pack(void* to, const Tensor& w, Format format) {
  const DType dtype = format.dtype;
  enter();
  const auto size = int64_t(size_of(w.dtype));
  cuda::HostRows rows{.data = static_cast<const char*>(w.data), .rows = w.rows, .bytes = w.cols * size, .stride = w.ld * size};
  if (w.dtype == dtype) {
    staging_->upload(to, rows);
  } else {
    const int64_t most = int64_t(cuda::kWorkspaceBytes) / rows.bytes;
    require(most > 0, "pack: a weight's rows have ", rows.bytes, " bytes, expected at most ", cuda::kWorkspaceBytes);
    for (int64_t row = 0; row < w.rows; row += most) {  // in order on one stream: they are converted before the next ones overwrite them
      rows.data = static_cast<const char*>(w.data) + row * rows.stride, rows.rows = std::min(most, w.rows - row);
      staging_->upload(workspace_, rows);
      cuda::convert(workspace_, w.dtype, static_cast<char*>(to) + row * w.cols * int64_t(size_of(dtype)), dtype, rows.rows * w.cols,
                    stream_);
    }
  }
  return {.data = to, .rows = w.rows, .cols = w.cols, .ld = w.cols, .dtype = dtype};
}

Tensor CudaBackend::pack_random(void* to, int64_t outputs, int64_t inputs, const RandomFill& values, Format format) {
  const DType dtype = format.dtype;
  const int64_t fours = (inputs + 3) / 4 + 1, most = std::min<int64_t>(outputs, 65535);
  const cuda::Launch l{
      .name = "make random weights",
      .grid = dim3(unsigned((fours + cuda::kThreads - 1) / cuda::kThreads), unsigned(most), unsigned((outputs + most - 1) / most)),
      .block = cuda::kThreads,
      .stream = stream_};
  dispatch(dtype, [&](auto t) {
    using E = cuda::Element<t>;
    cuda::launch(l, cuda::random_kernel<E>, static_cast<E*>(to), outputs, inputs, values);
  });
  return {.data = to, .rows = outputs, .cols = inputs, .ld = inputs, .dtype = dtype};
}

}  // namespace neox
