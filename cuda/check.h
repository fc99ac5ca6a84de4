// SPDX-License-Identifier: Apache-2.0
// Every CUDA and cuBLASLt call goes through check(), every kernel launch through launch().
#pragma once
#include <cublasLt.h>
#include <cuda_runtime.h>

#include "base/check.h"

namespace neox::cuda {

/// Throws Error(runtime) saying what failed and why.
inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail(ErrorKind::runtime, "CUDA: ", what, ": ", cudaGetErrorString(error));
}
inline void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(ErrorKind::runtime, "cuBLASLt: ", what, ": ", cublasLtGetStatusString(status));
}

struct Launch {
  const char* name;
  dim3 grid, block;
  cudaStream_t stream;
  size_t shared = 0;  // bytes of dynamic shared memory
};
template <class... P, class... A> void launch(const Launch& l, void (*kernel)(P...), A&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = l.grid, config.blockDim = l.block, config.dynamicSmemBytes = l.shared, config.stream = l.stream;
  check(cudaLaunchKernelEx(&config, kernel, P(args)...), l.name);
}

}  // namespace neox::cuda
