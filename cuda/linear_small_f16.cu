// SPDX-License-Identifier: Apache-2.0
// linear for few rows, f16 weights. Instantiations: 1 (up to 8 rows).
#include "linear_small.cuh"

namespace neox::cuda {

void small_f16(const SmallCall& call, int ctas, const Stream& stream) { small_with<__half, 8>(call, ctas, stream); }

}  // namespace neox::cuda
