// SPDX-License-Identifier: Apache-2.0
// The table of one instruction set. Compiled once per instruction set.
#include "cpu/isa.h"

#include NEOX_VEC

namespace neox::NEOX_ISA {

#define NEOX_TEXT(x) #x
#define NEOX_NAME(x) NEOX_TEXT(x)
extern const Kernels kernels{.name = NEOX_NAME(NEOX_ISA),
                             .attention_rows = kAccumulators > 8 ? 12 : 6,
                             .linear = linear,
                             .linear_narrow = linear_narrow,
                             .narrow_rows = narrow_rows,
                             .quantize_row = quantize_row,
                             .add_norm = add_norm,
                             .rotate_append = rotate_append,
                             .attend = attend,
                             .widen = widen,
                             .largest = largest,
                             .exp_all = exp_all};

}  // namespace neox::NEOX_ISA
