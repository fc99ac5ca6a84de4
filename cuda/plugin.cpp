// SPDX-License-Identifier: Apache-2.0
// What libneox asks of this plugin: a backend, or the reason why there is none.
#include "base/plugin.h"
#include "cuda_backend.h"
#include "nccl.h"
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

void require_gpu(int gpu) {
  int count = 0;
  cuda::check(cudaGetDeviceCount(&count), "count the GPUs");
  require(gpu >= 0 && gpu < count, "devices holds ", gpu, ", expected GPUs that CUDA sees, 0 to ", count - 1);
}

}  // namespace

/// "GPU 0: NVIDIA H200, 139 GiB; reaches GPU 1 directly".
static std::string described(int gpu, int count) {
  cudaDeviceProp p;
  cuda::check(cudaGetDeviceProperties(&p, gpu), "ask what the device is");
  std::string reached;
  for (int other = 0; other < count; other++) {
    int can = 0;
    if (other != gpu && cudaDeviceCanAccessPeer(&can, gpu, other) == cudaSuccess && can)
      reached += concat(reached.empty() ? "" : ", ", other);
  }
  return concat("GPU ", gpu, ": ", p.name, ", ", p.totalGlobalMem >> 30, " GiB",
                count == 1        ? ""
                : reached.empty() ? "; reaches no other GPU's memory"
                                  : concat("; reaches the memory of GPU ", reached));
}

static std::string described_nccl() {
  try {
    const int v = cuda::load_nccl().version();
    return concat("NCCL ", v / 10000, ".", v % 10000 / 100, ".", v % 100);
  } catch (const Error& e) { return concat("no NCCL: ", e.what()); }
}

cuda::NcclPlugin& cuda::load_nccl() {
  using Open = NcclPlugin* (*)(int);
  const auto open = reinterpret_cast<Open>(plugin_symbol("libneox_nccl.so", "neox_nccl_plugin"));
  if (NcclPlugin* plugin = open(kNcclAbi)) return *plugin;
  fail(ErrorKind::unsupported, "libneox_nccl.so is of another version than libneox_cuda.so: install both together");
}

}  // namespace neox

extern "C" NEOX_API neox::Backend* neox_make_backend(int abi, const neox::BackendConfig& config) {
  neox::require_usable(abi);
  neox::require_gpu(config.gpu);
  return new neox::CudaBackend(config.gpu, config);
}

extern "C" NEOX_API neox::Tuner* neox_make_tuner(int abi, const neox::DType& type, const std::vector<neox::TuneCall>& calls,
                                                 const int& most_rows) {
  neox::require_usable(abi);
  return neox::cuda::make_tuner(0, type, calls, most_rows).release();
}

/// 0 also where there is no driver, or one that is too old.
extern "C" NEOX_API int32_t neox_gpu_count() {
  int driver = 0, count = 0;
  const bool usable = cudaDriverGetVersion(&driver) == cudaSuccess && driver / 1000 >= CUDART_VERSION / 1000;
  return usable && cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

extern "C" NEOX_API void neox_gpu_report(std::vector<std::string>& lines) {
  const int count = neox_gpu_count();
  for (int gpu = 0; gpu < count; gpu++) lines.push_back(neox::described(gpu, count));
  lines.push_back(neox::described_nccl());
}
