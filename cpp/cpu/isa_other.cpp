// SPDX-License-Identifier: Apache-2.0
#include "cpu/kernels.h"

namespace neox {
namespace generic {
extern const Kernels kernels;
}

std::span<const IsaEntry> isa_table() {
  static const IsaEntry table[] = {{&generic::kernels, true}};
  return table;
}

}  // namespace neox
