// SPDX-License-Identifier: Apache-2.0
#include "base/dtype.h"
#include "base/plugin.h"
#include "neox/machine.h"

namespace neox {

double gpu_read_bandwidth() { return reinterpret_cast<double (*)()>(plugin_symbol("libneox_cuda.so", "neox_gpu_read_bandwidth"))(); }

double gpu_matmul_peak(const std::string& dtype) {
  const DType type = dtype_named(dtype);
  return reinterpret_cast<double (*)(int)>(plugin_symbol("libneox_cuda.so", "neox_gpu_matmul_peak"))(int(type));
}

}  // namespace neox
