// SPDX-License-Identifier: Apache-2.0
#include "check.h"
#include "device.cuh"

namespace neox::cuda {
namespace {

__global__ void probe() { grid_wait(); }

}  // namespace

bool kernels_can_wait() {
  cudaFuncAttributes compiled;  // code for older cards has no grid_wait(), whatever card it runs on
  check(cudaFuncGetAttributes(&compiled, probe), "look at a kernel");
  return compiled.ptxVersion >= 90;
}

}  // namespace neox::cuda
