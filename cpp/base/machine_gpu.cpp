// SPDX-License-Identifier: Apache-2.0
#include "base/dtype.h"
#include "base/plugin.h"
#include "neox/machine.h"

namespace neox {

int32_t gpu_count() {
  try {
    return reinterpret_cast<int32_t (*)()>(plugin_symbol("libneox_cuda.so", "neox_gpu_count"))();
  } catch (const Error& e) {
    if (e.kind != ErrorKind::unsupported) throw;
    return 0;
  }
}

std::vector<std::string> gpu_report() {
  std::vector<std::string> lines;
  if (gpu_count() > 0) reinterpret_cast<void (*)(std::vector<std::string>&)>(plugin_symbol("libneox_cuda.so", "neox_gpu_report"))(lines);
  return lines;
}

double gpu_read_bandwidth() { return reinterpret_cast<double (*)()>(plugin_symbol("libneox_cuda.so", "neox_gpu_read_bandwidth"))(); }

double gpu_matmul_peak(const std::string& dtype) {
  const DType type = dtype_named(dtype);
  return reinterpret_cast<double (*)(int)>(plugin_symbol("libneox_cuda.so", "neox_gpu_matmul_peak"))(int(type));
}

}  // namespace neox
