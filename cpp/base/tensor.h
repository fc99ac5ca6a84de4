// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace neox {

/// A 2-D view: never owns, never allocates, does not know its device.
struct Tensor {
  void* data = nullptr;
  int64_t rows = 0, cols = 0, ld = 0;  // row-major; ld = elements from one row to the next
  DType dtype = DType::f32;

  explicit operator bool() const { return data != nullptr; }
  Tensor first(int64_t n) const {
    Tensor t = *this;
    t.rows = n;
    return t;
  }
  Tensor from(int64_t row) const {
    Tensor t = *this;
    t.data = static_cast<char*>(data) + row * ld * int64_t(size_of(dtype));
    t.rows = rows - row;
    return t;
  }
  template <class T = float> T* row(int64_t r) const { return static_cast<T*>(data) + r * ld; }
};

}  // namespace neox
