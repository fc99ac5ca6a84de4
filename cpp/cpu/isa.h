// SPDX-License-Identifier: Apache-2.0
// What the kernel files of one instruction set give to its table (isa.cpp). NEOX_ISA is its namespace.
#pragma once
#include "cpu/kernels.h"

namespace neox::NEOX_ISA {

void linear(const LinearTask&, int64_t panel0, int64_t panel1);
void linear_narrow(const LinearTask&, int64_t panel0, int64_t panel1);
void narrow_rows(const Tensor& x, Format weight, const NarrowRows& out, int64_t row0, int64_t row1);
void quantize_row(const float* row, int64_t n, Format to, int8_t* q, float* scale);
void add_norm(const AddNormArgs&, int64_t row0, int64_t row1);
void rotate_append(const AttentionArgs&, const TokenHeads&);
void attend(const AttentionTask&, const AttentionItem&);
void widen(DType from, const void* x, float* y, int64_t n);
bool largest(const float* x, int64_t n, float* most);
double exp_all(const float* x, int64_t n, float most, float scale, float* y);

}  // namespace neox::NEOX_ISA
