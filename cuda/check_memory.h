// SPDX-License-Identifier: Apache-2.0
// Device memory of the programs that check.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace neox::cuda::trial {

inline void ok(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(e));
  std::exit(2);
}

/// Device memory, full of 0xff (a NaN in any type) until written.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes) {
    ok(cudaMalloc(&data_, bytes ? bytes : 1), "cudaMalloc");
    poison();
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }
  template <class T> Memory(const std::vector<T>& v) : Memory(v.size() * sizeof(T)) { upload(v.data(), bytes_); }
  void poison() { ok(cudaMemset(data_, 0xff, bytes_), "cudaMemset"); }
  void upload(const void* from, size_t bytes) { ok(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice), "upload"); }
  std::vector<uint8_t> download() const {
    std::vector<uint8_t> v(bytes_);
    ok(cudaMemcpy(v.data(), data_, bytes_, cudaMemcpyDeviceToHost), "download");
    return v;
  }
  template <class T = void> T* data() const { return static_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

}  // namespace neox::cuda::trial
