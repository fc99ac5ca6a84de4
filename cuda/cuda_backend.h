// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>

#include "backend/backend.h"
#include "check.h"
#include "gemm.h"
#include "linear_small.h"
#include "staging.h"
#include "waits.h"

namespace neox {
namespace cuda {
class LinearTuner;
}

/// One GPU and one stream. Weights, activations and k, v are of the model's type; sums, the residual stream and logits are f32.
class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, const BackendConfig& config);
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;

  std::string name() const override { return "cuda"; }
  std::string describe() const override;
  int64_t memory_free() const override;
  void* allocate(size_t bytes) override;
  void release(void* p) noexcept override;
  void upload(void* to, const void* from, size_t bytes) override;
  void download(void* to, const void* from, size_t bytes) override;
  void synchronize() override;
  uint64_t mark() override;
  void wait(uint64_t mark) override;
  std::unique_ptr<Replay> record(const std::function<void()>& body) override;

  DType activation_dtype(DType model) const override { return model; }
  size_t packed_bytes(int64_t outputs, int64_t inputs, Format format) const override;
  Tensor pack(void* to, const Tensor& weight, Format format) override;
  Tensor pack_random(void* to, int64_t outputs, int64_t inputs, const RandomFill& values, Format format) override;
  size_t page_bytes(const KvPages& kv) const override;
  std::unique_ptr<Communicator> connect(HostGroup& group, const std::vector<int>& members, Channel channel, DType wire) override;
  void reserve(const Bounds& bounds) override;
  void use_gemm_config(const std::string& path) override;
  GemmUse gemm_use() const override { return gemm_->use_so_far(); }

  void embed(const EmbedArgs&) override;
  void add_norm(const AddNormArgs&) override;
  void linear(std::initializer_list<LinearArgs> parts) override;
  void attention(const AttentionArgs&) override;
  void gather_rows(const GatherArgs&) override;
  void copy_blocks(const CopyBlocksArgs&) override;
  void sample(const SampleArgs&) override;
  void beam_candidates(const BeamArgs&) override;

 private:
  friend class cuda::LinearTuner;  // which runs linear's ways one by one
  void enter() const;              // makes the GPU that of the calling thread, as CUDA's calls want it
  bool own_is_chosen(std::initializer_list<LinearArgs> parts);

  const int device_;
  const bool unfused_, f32_scores_;  // attention
  const bool deterministic_;         // one arithmetic for a row, whatever rows there are beside it
  const bool custom_all_reduce_;
  cuda::Stream stream_;
  cuda::Waits waits_;
  std::unique_ptr<cuda::Staging> staging_;
  std::unique_ptr<cuda::Gemm> gemm_;
  std::unique_ptr<cuda::SmallLinear> small_linear_;
  void* workspace_ = nullptr;            // [cuda::kWorkspaceBytes] of one op at a time: sums of a product, or raw weights under conversion
  void* attention_workspace_ = nullptr;  // [attention_workspace_bytes_]
  size_t attention_workspace_bytes_ = 0;
  void* unfused_scratch_ = nullptr;  // [unfused_bytes_], or null where attention is fused
  size_t unfused_bytes_ = 0;
  void* edited_ = nullptr;  // [Bounds::logit_rows, Bounds::vocab] f32: rows as their draws see them
};

}  // namespace neox
