// SPDX-License-Identifier: Apache-2.0
// Everything conditional that the sources know about the machine they are compiled for.
#pragma once

namespace neox {
#ifdef __FP_FAST_FMAF
constexpr bool kFastFma = true;  // a fused multiply-add is one instruction
#else
constexpr bool kFastFma = false;
#endif

/// Tells the core that this is a spin loop.
inline void relax() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}
}  // namespace neox
