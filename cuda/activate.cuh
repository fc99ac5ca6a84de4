// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backend/args.h"

namespace neox::cuda {

__device__ inline float activate(Act act, float x) {
  switch (act) {
    case Act::gelu: return 0.5f * x * (1.f + erff(x * 0.707106781f));
    case Act::gelu_tanh: return 0.5f * x * (1.f + tanhf(0.797884561f * x * fmaf(0.044715f * x, x, 1.f)));
    case Act::relu: return x < 0.f ? 0.f : x;  // a NaN stays
    case Act::silu: return x / (1.f + expf(-x));
    default: return x;
  }
}

}  // namespace neox::cuda
