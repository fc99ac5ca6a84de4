// SPDX-License-Identifier: Apache-2.0
// The only owners of backend memory.
#pragma once
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace neox {

class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend& backend, size_t bytes) : backend_(&backend), data_(bytes ? backend.allocate(bytes) : nullptr), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept
      : backend_(other.backend_), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(backend_, other.backend_), std::swap(data_, other.data_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() {
    if (data_) backend_->release(data_);
  }
  template <class T = void> T* data() const { return static_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Buffers that live and die together.
class Arena {
 public:
  explicit Arena(Backend& backend) : backend_(backend) {}
  void* allocate(size_t bytes) {
    buffers_.emplace_back(backend_, bytes);
    bytes_ += bytes;
    return buffers_.back().data();
  }
  Tensor tensor(int64_t rows, int64_t cols, DType dtype = DType::f32) {
    return {.data = allocate(size_t(rows) * cols * size_of(dtype)), .rows = rows, .cols = cols, .ld = cols, .dtype = dtype};
  }
  size_t bytes() const { return bytes_; }

 private:
  Backend& backend_;
  std::vector<Buffer> buffers_;
  size_t bytes_ = 0;
};

}  // namespace neox
