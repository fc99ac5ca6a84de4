// SPDX-License-Identifier: Apache-2.0
// Weights [outputs, inputs]: row-major in the model's type. Their bytes come up as the checkpoint has them; another type is converted here.
// Floor of the conversion: each weight read and written once.
#include <algorithm>

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

}  // namespace
}  // namespace cuda

size_t CudaBackend::packed_bytes(int64_t outputs, int64_t inputs, DType dtype) const { return size_t(outputs * inputs) * size_of(dtype); }

Tensor CudaBackend::pack(void* to, const Tensor& w, DType dtype) {
  require(w.ld == w.cols, "pack: the rows of a weight must follow each other");
  const int64_t n = w.rows * w.cols, step = int64_t(cuda::kWorkspaceBytes / size_of(w.dtype));
  if (w.dtype == dtype) {
    upload(to, w.data, size_t(n) * size_of(dtype));
  } else {
    for (int64_t i = 0; i < n; i += step) {  // in order on one stream: a piece is converted before the next one overwrites it
      const int64_t count = std::min(step, n - i);
      upload(workspace_, static_cast<const char*>(w.data) + i * int64_t(size_of(w.dtype)), size_t(count) * size_of(w.dtype));
      cuda::convert(workspace_, w.dtype, static_cast<char*>(to) + i * int64_t(size_of(dtype)), dtype, count, stream_);
    }
  }
  return {.data = to, .rows = w.rows, .cols = w.cols, .ld = w.cols, .dtype = dtype};
}

}  // namespace neox
