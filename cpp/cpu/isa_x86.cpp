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
namespace avx512vnni {
void linear_narrow(const LinearTask&, int64_t panel0, int64_t panel1);
}

std::span<const IsaEntry> isa_table() {
  static const bool avx2_here = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  static const bool avx512_here = avx2_here && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const bool vnni_here = avx512_here && __builtin_cpu_supports("avx512vnni");
  static const Kernels vnni = [] {
    Kernels k = avx512::kernels;
    k.name = "avx512vnni", k.linear_narrow = avx512vnni::linear_narrow;
    return k;
  }();
  static const IsaEntry table[] = {
      {&generic::kernels, true}, {&avx2::kernels, avx2_here}, {&avx512::kernels, avx512_here}, {&vnni, vnni_here}};
  return table;
}

}  // namespace neox
