// SPDX-License-Identifier: Apache-2.0
#include "cuda_backend.h"

#include "attention.h"
#include "place.h"

namespace neox {

CudaBackend::CudaBackend(int device, const BackendConfig& config)
    : device_(device), unfused_(config.attention == "unfused"), f32_scores_(config.unfused_scores == "float32"),
      deterministic_(config.deterministic), custom_all_reduce_(config.custom_all_reduce) {
  enter();
  cuda::check(cudaStreamCreateWithFlags(&stream_.handle, cudaStreamNonBlocking), "create a stream");
  stream_.early = config.programmatic_launch && cuda::kernels_can_wait();
  staging_ = std::make_unique<cuda::Staging>(stream_, waits_);
  workspace_ = allocate(cuda::kWorkspaceBytes);
  gemm_ = std::make_unique<cuda::Gemm>(stream_, workspace_, deterministic_ ? cuda::Gemm::Plans::one_a_matrix : cuda::Gemm::Plans::fastest);
  small_linear_ = std::make_unique<cuda::SmallLinear>(stream_, workspace_, cuda::kWorkspaceBytes);
}

void CudaBackend::enter() const { cuda::check(cudaSetDevice(device_), "choose the device"); }

CudaBackend::~CudaBackend() {
  cudaSetDevice(device_);
  cudaStreamSynchronize(stream_);
  small_linear_.reset(), gemm_.reset(), staging_.reset();
  cudaFree(edited_), cudaFree(unfused_scratch_), cudaFree(attention_workspace_), cudaFree(workspace_);
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
  attention_workspace_ = allocate(attention_workspace_bytes_);
  cuda::check(cudaMemsetAsync(attention_workspace_, 0, cuda::kAttentionZeroed, stream_), "zero a workspace");
  cudaFree(edited_);
  edited_ = allocate(size_t(b.logit_rows) * size_t(b.vocab) * sizeof(float));
  if (!unfused_) return;
  cudaFree(unfused_scratch_);
  unfused_bytes_ = cuda::unfused_bytes(b.tokens, b.kv, b.head_dim);
  unfused_scratch_ = allocate(unfused_bytes_);
}

void CudaBackend::use_gemm_config(const std::string& path) {
  if (deterministic_)
    fail(ErrorKind::unsupported, path, " chooses by rows, but with deterministic a product has one plan for any number of them");
  GemmConfig config = GemmConfig::read(path);
  config.require_place(cuda::place_of(device_), path);
  gemm_->use(std::move(config));
}

void CudaBackend::attention(const AttentionArgs& a) {
  const cuda::Unfused unfused{.gemm = *gemm_, .f32_scores = f32_scores_, .scratch = unfused_scratch_, .bytes = unfused_bytes_};
  cuda::attention(a, attention_workspace_, attention_workspace_bytes_, stream_,
                  deterministic_ ? cuda::DecodeOrder::as_prefill : cuda::DecodeOrder::fastest, unfused_ ? &unfused : nullptr);
}

}  // namespace neox
