// SPDX-License-Identifier: Apache-2.0
#include "cuda_backend.h"

#include "attention.h"

namespace neox {

CudaBackend::CudaBackend(int device) : device_(device) {
  cuda::check(cudaSetDevice(device), "choose the device");
  cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream");
  staging_ = std::make_unique<cuda::Staging>(stream_);
  workspace_ = allocate(cuda::kWorkspaceBytes);
  gemm_ = std::make_unique<cuda::Gemm>(stream_, workspace_);
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_);
  gemm_.reset(), staging_.reset();
  cudaFree(attention_workspace_), cudaFree(workspace_);
  cudaStreamDestroy(stream_);
}

std::string CudaBackend::describe() const {
  cudaDeviceProp p;
  cuda::check(cudaGetDeviceProperties(&p, device_), "ask what the device is");
  return concat(p.name, ", compute capability ", p.major, ".", p.minor, ", ", p.totalGlobalMem >> 30, " GiB");
}

size_t CudaBackend::page_bytes(const KvPages& kv) const { return cuda::attention_page_elements(kv) * size_of(kv.dtype); }

void CudaBackend::reserve(const Bounds& b) {
  cudaFree(attention_workspace_);
  attention_workspace_bytes_ = cuda::attention_workspace_bytes(b.tokens, b.kv, b.heads, b.head_dim);
  attention_workspace_ = attention_workspace_bytes_ ? allocate(attention_workspace_bytes_) : nullptr;
}

void CudaBackend::attention(const AttentionArgs& a) { cuda::attention(a, attention_workspace_, attention_workspace_bytes_, stream_); }

}  // namespace neox
