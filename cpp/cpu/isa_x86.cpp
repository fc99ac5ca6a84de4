// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernels.h"

namespace neox {
namespace generic {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}

std::span<const IsaEntry> isa_table() {
  static const bool avx2_here = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  static const bool avx512_here = avx2_here && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const IsaEntry table[] = {{&generic::kernels, true}, {&avx2::kernels, avx2_here}, {&avx512::kernels, avx512_here}};
  return table;
}

}  // namespace neox
