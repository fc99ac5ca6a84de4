// SPDX-License-Identifier: Apache-2.0
// Prefill attention, bf16 activations and pages. Instantiations: 10 (head sizes up to 64, 80, 96, 128, 256; for prompts
// and for single rows).
#include "attention_prefill.cuh"

namespace neox::cuda::attn {

void prefill_bf16(const Args& args, int32_t max_q, const Stream& stream) { prefill_16bit<__nv_bfloat16>(args, max_q, stream); }

}  // namespace neox::cuda::attn
