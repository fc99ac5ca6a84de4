// SPDX-License-Identifier: Apache-2.0
// linear for few rows, bf16 weights. Instantiations: 1 (up to 8 rows).
#include "linear_small.cuh"

namespace neox::cuda {

void small_bf16(const SmallCall& call, int ctas, const Stream& stream) { small_with<__nv_bfloat16, 8>(call, ctas, stream); }

}  // namespace neox::cuda
