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

/// What the current device has.
inline int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "ask for the device");
  check(cudaDeviceGetAttribute(&value, which, device), "ask what the device has");
  return value;
}

/// A stream, and whether its kernels may start before the one before them has ended (device.cuh).
struct Stream {
  cudaStream_t handle = nullptr;
  bool early = false;
  operator cudaStream_t() const { return handle; }
};
/// Whether the kernels of this library were compiled for an architecture that can wait for the one before: elsewhere none may start early.
bool kernels_can_wait();
/// Whether they were compiled for the very architecture that multiplies by warpgroups.
bool kernels_have_warpgroups();

struct Launch {
  const char* name;
  dim3 grid, block;
  Stream stream;
  size_t shared = 0;  // bytes of dynamic shared memory
};
/// Lets a kernel have as much shared memory as it is launched with, which above 48 KiB is asked for.
template <class... P> void give_shared(const Launch& l, void (*kernel)(P...)) {
  if (l.shared > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(l.shared)), "give a kernel shared memory");
}
template <class... P, class... A> void launch(const Launch& l, void (*kernel)(P...), A&&... args) {
  give_shared(l, kernel);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = l.grid, config.blockDim = l.block, config.dynamicSmemBytes = l.shared, config.stream = l.stream;
  config.attrs = &early, config.numAttrs = l.stream.early;
  check(cudaLaunchKernelEx(&config, kernel, P(args)...), l.name);
}

}  // namespace neox::cuda
