// SPDX-License-Identifier: Apache-2.0
#include "place.h"

#include <dlfcn.h>

#include "check.h"

namespace neox::cuda {
namespace {

/// The driver's own version, "580.159.04", which NVML knows; where it is not installed the CUDA version that the driver is for, "CUDA
/// 13000".
std::string driver_version() {
  int cuda = 0;
  check(cudaDriverGetVersion(&cuda), "ask for the driver's version");
  const std::string otherwise = concat("CUDA ", cuda);
  void* nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!nvml) return otherwise;
  constexpr unsigned kWithoutGpus = 1 | 2;  // no need to find or attach them
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(nvml, "nvmlInitWithFlags"));
  const auto version = reinterpret_cast<int (*)(char*, unsigned)>(dlsym(nvml, "nvmlSystemGetDriverVersion"));
  const auto shutdown = reinterpret_cast<int (*)()>(dlsym(nvml, "nvmlShutdown"));
  char text[96] = {};
  bool known = false;
  if (init && version && shutdown && init(kWithoutGpus) == 0) {
    known = version(text, sizeof text) == 0;
    shutdown();
  }
  dlclose(nvml);
  return known ? text : otherwise;
}

}  // namespace

GemmPlace place_of(int device) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, device), "ask what the device is");
  return {.gpu = concat(p.name, ", ", p.multiProcessorCount, " SMs"),
          .driver = driver_version(),
          .cublaslt = std::to_string(cublasLtGetVersion())};
}

}  // namespace neox::cuda
