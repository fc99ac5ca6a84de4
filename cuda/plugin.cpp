// SPDX-License-Identifier: Apache-2.0
// What libneox asks of this plugin: a backend, or the reason why there is none.
#include "cuda_backend.h"
#include "tune.h"

namespace neox {
namespace {

std::string dotted(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

void require_driver() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) fail(ErrorKind::unsupported, "there is no NVIDIA driver");
  if (driver / 1000 < CUDART_VERSION / 1000)
    fail(ErrorKind::unsupported, "the NVIDIA driver is for CUDA ", dotted(driver), ", this build needs one for CUDA ",
         CUDART_VERSION / 1000, ".0 or later");
}

void require_device() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    fail(ErrorKind::unsupported, "there is no GPU that CUDA sees (CUDA_VISIBLE_DEVICES may hide it)");
  if (error != cudaSuccess) fail(ErrorKind::unsupported, "CUDA does not start: ", cudaGetErrorString(error));
}

void require_usable(int abi) {
  if (abi != kBackendAbi)
    fail(ErrorKind::unsupported, "libneox_cuda.so is of another version than libneox.so (", kBackendAbi, ", not ", abi,
         "): install both together");
  require_driver();
  require_device();
}

}  // namespace
}  // namespace neox

extern "C" NEOX_API neox::Backend* neox_make_backend(int abi, const neox::BackendConfig& config) {
  neox::require_usable(abi);
  return new neox::CudaBackend(0, config);
}

extern "C" NEOX_API neox::Tuner* neox_make_tuner(int abi, const neox::DType& type, const std::vector<neox::TuneCall>& calls,
                                                 const int& most_rows) {
  neox::require_usable(abi);
  return neox::cuda::make_tuner(0, type, calls, most_rows).release();
}
