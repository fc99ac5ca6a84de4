// SPDX-License-Identifier: Apache-2.0
// What the code that this card runs was compiled for.
#include "check.h"
#include "device.cuh"

namespace neox::cuda {
namespace {

constexpr int kPlain = 32, kWithWarpgroups = 64;  // the threads of a CTA, at most, tell which of the compiled kernels it is
__global__ __launch_bounds__(kWarpgroups ? kWithWarpgroups : kPlain) void probe() { grid_wait(); }

cudaFuncAttributes compiled() {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, probe), "look at a kernel");
  return attributes;
}

}  // namespace

// Code for older cards has no grid_wait(), whatever card it runs on.
bool kernels_can_wait() { return compiled().ptxVersion >= 90; }

bool kernels_have_warpgroups() { return compiled().maxThreadsPerBlock == kWithWarpgroups; }

}  // namespace neox::cuda
