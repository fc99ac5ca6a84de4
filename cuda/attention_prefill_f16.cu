// SPDX-License-Identifier: Apache-2.0
// Prefill attention, f16 activations and pages. Instantiations: 10 (head sizes up to 64, 80, 96, 128, 256; for prompts
// and for single rows).
#include "attention_prefill.cuh"

namespace neox::cuda::attn {

void prefill_f16(const Args& args, int32_t max_q, const Stream& stream) { prefill_16bit<__half>(args, max_q, stream); }

}  // namespace neox::cuda::attn
