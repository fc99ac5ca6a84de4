// SPDX-License-Identifier: Apache-2.0
// Prefill attention, bf16 activations and pages. Instantiations: by warpgroups 5 (head sizes up to 64, 80, 96, 128, 256), else 10 (for
// prompts and for single rows).
#include "attention_prefill.cuh"
#include "attention_prefill_warpgroups.cuh"

namespace neox::cuda::attn {

void prefill_bf16(const Args& args, int32_t max_q, const Stream& stream) {
  if (kernels_have_warpgroups()) prefill_warpgroups<__nv_bfloat16>(args, max_q, stream);
  else prefill_16bit<__nv_bfloat16>(args, max_q, stream);
}

}  // namespace neox::cuda::attn
