// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace neox {

/// How a matrix is kept.
struct Format {
  DType dtype = DType::f32;
  int32_t group = 0;  // columns that share a scale, of i4 and w4a8

  constexpr Format(DType t, int32_t columns = 0) : dtype(t), group(columns) {}
};

/// A 2-D view: never owns, never allocates, does not know its device.
struct Tensor {
  void* data = nullptr;
  int64_t rows = 0, cols = 0, ld = 0;  // row-major; ld = elements from one row to the next
  DType dtype = DType::f32;
  int32_t group = 0;            // columns that share a scale, of i4 and w4a8
  const void* scale = nullptr;  // of integers as a file holds them: [rows], or [rows, ld / group]
  DType scale_dtype = DType::f32;

  explicit operator bool() const { return data != nullptr; }
  Format format() const { return {dtype, group}; }
  Tensor first(int64_t n) const {
    Tensor t = *this;
    t.rows = n;
    return t;
  }
  Tensor from(int64_t row) const {
    Tensor t = *this;
    t.data = static_cast<char*>(data) + row * ld * bits_of(dtype) / 8;
    if (scale) t.scale = static_cast<const char*>(scale) + row * (group ? ld / group : 1) * int64_t(size_of(scale_dtype));
    t.rows = rows - row;
    return t;
  }
  /// n columns from `col` on, which are whole groups.
  Tensor columns(int64_t col, int64_t n) const {
    Tensor t = *this;
    t.data = static_cast<char*>(data) + col * bits_of(dtype) / 8;
    if (group) t.scale = static_cast<const char*>(scale) + col / group * int64_t(size_of(scale_dtype));
    t.cols = n;
    return t;
  }
  template <class T = float> T* row(int64_t r) const { return static_cast<T*>(data) + r * ld; }
};

}  // namespace neox
