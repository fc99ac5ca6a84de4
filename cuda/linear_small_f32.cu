// SPDX-License-Identifier: Apache-2.0
// linear for few rows, f32 weights. Instantiations: 2 (up to 8, 16 rows).
#include "linear_small.cuh"

namespace neox::cuda {

void small_f32(const SmallCall& call, int ctas, const Stream& stream) {
  if (call.rows <= 8) small_with<float, 8>(call, ctas, stream);
  else small_with<float, 16>(call, ctas, stream);
}

}  // namespace neox::cuda
