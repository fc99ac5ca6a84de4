// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "nccl.h"
#include "peer_memory.h"
#include "waits.h"

namespace neox::cuda {

/// Tensors between GPUs, in order with the stream's kernels, which may be recorded: sums and gathers by kernels of our own where the GPUs
/// reach each other's memory and the message is not too large for one shot, and by NCCL. Sums give the same bits on all ranks; partial sums
/// are sent in the type `wire`.
class GpuCommunicator final : public Communicator, Waiter {
 public:
  struct Parts {
    Waits& waits;
    Stream stream;
    int rank, size;
    DType wire;
    bool one_order;                     // sums are in rank order, however many rows there are
    std::unique_ptr<PeerMemory> peers;  // or null
    std::unique_ptr<Nccl> nccl;
    std::string version;  // NCCL's
  };
  explicit GpuCommunicator(Parts parts);
  ~GpuCommunicator() override;

  int rank() const override { return p_.rank; }
  int size() const override { return p_.size; }
  std::string describe() const override;
  bool recordable() const override { return true; }
  void all_reduce(Tensor x) override;
  void all_reduce_add_norm(Backend& be, const AddNormArgs& a) override;
  void all_gather_cols(Tensor out, Tensor part) override;
  void send(Tensor x, int to) override;
  void recv(Tensor x, int from) override;

 private:
  void abandon() noexcept override;
  bool takes_one_shot(size_t bytes) const;

  Parts p_;
  void* scratch_ = nullptr;  // [kScratch] what NCCL sends or receives
};

}  // namespace neox::cuda
