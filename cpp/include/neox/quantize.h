// SPDX-License-Identifier: Apache-2.0
// Matrices of weights as integers with scales, as an Engine on a CPU makes them while it loads: what converters write.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "neox/error.h"

namespace neox {

/// Sums of squares over a matrix.
struct QuantizationError {
  double error = 0;  // of what the integers stand for, less the weight
  double norm = 0;   // of the weight
};

/// A row-major matrix of `rows` rows, of type "float32", "float16" or "bfloat16" -> q [rows, cols] and scale: for mode "int8" and "w8a8"
/// [rows] and q in [-127, 127]; for "int4" and "w4a8" [rows, cols / group], float16's numbers, and q in [-8, 7], with group 32, 64 or 128.
/// A weight is q * scale, the nearest to it. Runs in the calling thread; the result is the same on every machine. Throws Error(invalid).
NEOX_API QuantizationError quantize(const std::string& mode, int32_t group, const std::string& dtype, const void* weight, int64_t rows,
                                    int64_t cols, std::span<int8_t> q, std::span<float> scale);

}  // namespace neox
