// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cassert>
#include <vector>

#include "backend/backend.h"
#include "backend/buffer.h"
#include "base/thread_pool.h"
#include "comm/host_communicator.h"
#include "cpu/kernels.h"

namespace neox {

/// Host memory, a thread pool, and the kernels of one instruction set. Weights may be 16-bit; activations and arithmetic are f32.
class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, int threads);

  std::string name() const override { return "cpu"; }
  std::string describe() const override;
  int64_t memory_free() const override;
  void* allocate(size_t bytes) override;
  void release(void* p) noexcept override;
  void upload(void* to, const void* from, size_t bytes) override;
  void download(void* to, const void* from, size_t bytes) override;
  void synchronize() override {}
  uint64_t mark() override { return 0; }
  void wait(uint64_t) override {}
  std::unique_ptr<Replay> record(const std::function<void()>&) override { return nullptr; }

  DType activation_dtype(DType) const override { return DType::f32; }
  size_t packed_bytes(int64_t outputs, int64_t inputs, Format format) const override;
  Tensor pack(void* to, const Tensor& weight, Format format) override;
  Tensor pack_random(void* to, int64_t outputs, int64_t inputs, const RandomFill& values, Format format) override;
  size_t page_bytes(const KvPages& kv) const override;
  std::unique_ptr<Communicator> connect(HostGroup& group, const std::vector<int>& members, Channel channel, DType) override {
    return std::make_unique<HostCommunicator>(*this, group, members, channel);
  }
  void reserve(const Bounds& bounds) override;
  void use_gemm_config(const std::string& path) override;
  GemmUse gemm_use() const override { return {}; }

  void embed(const EmbedArgs&) override;
  void add_norm(const AddNormArgs&) override;
  void linear(std::initializer_list<LinearArgs> parts) override;
  void attention(const AttentionArgs&) override;
  void gather_rows(const GatherArgs&) override;
  void copy_blocks(const CopyBlocksArgs&) override;
  void sample(const SampleArgs&) override;
  void beam_candidates(const BeamArgs&) override;

 private:
  struct Scratch {                 // of one thread
    std::vector<float> wide;       // [kWideBytes / 4] widened weights
    std::array<Buffer, 2> narrow;  // integers of few rows of inputs, for each part of a linear
    std::vector<float> scores;     // [attention_rows, scores_ld_]
    std::vector<float> weights;    // [vocab] exp of logits
    std::vector<float> edited;     // [vocab] a row of logits as its draws see it
    std::vector<int32_t> ids;      // [vocab] candidates
  };
  void sample_row(const SampleArgs&, int32_t i, Scratch&) const;
  void beam_row(const BeamArgs&, const BeamRow&, Scratch&) const;
  int32_t draw(const SampleArgs&, const SampleRow&, const float* logits, Scratch&, double& logprob) const;
  void list_attention(const AttentionArgs&);
  NarrowRows narrow(const LinearArgs&, size_t part, int thread);

  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<Scratch> scratch_;      // [threads]
  std::array<Buffer, 2> narrow_;      // integers of more rows of inputs
  std::vector<AttentionItem> items_;  // of the attention op at hand
  int64_t scores_ld_ = 0;
};

}  // namespace neox
