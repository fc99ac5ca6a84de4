// SPDX-License-Identifier: Apache-2.0
// linear for few rows on compute capability 9.0, bf16 weights. Instantiations: 4 (up to 8, 16, 32, 64 rows).
#include "linear_stream.cuh"

namespace neox::cuda {

void stream_bf16(const StreamCall& call, int ctas, const Stream& stream) { stream_with<__nv_bfloat16>(call, ctas, stream); }

}  // namespace neox::cuda
