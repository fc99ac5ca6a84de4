// SPDX-License-Identifier: Apache-2.0
// linear by cuBLASLt.
#pragma once
#include <initializer_list>

#include "backend/args.h"
#include "gemm.h"

namespace neox::cuda {

/// A part as cuBLASLt gets it, and what is left for a pass over out.
struct LibraryPart {
  Gemm::Call call;
  Tensor bias;  // or empty
  Act act;
};
LibraryPart library_part(const LinearArgs& part, Gemm::Sum sum);

/// Parts one after the other, where one with the first one's out is added to it.
void library_linear(std::initializer_list<LinearArgs> parts, Gemm& gemm, const Stream& stream);

}  // namespace neox::cuda
