// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "comm/group.h"

namespace neox {

/// Tensors between some of a group's ranks, by messages through host memory. Sums are in rank order on every rank, so all get the same
/// bits.
class NEOX_API HostCommunicator final : public Communicator {
 public:
  /// members: their ranks in the group, this one among them; a rank here is a place in that list.
  HostCommunicator(Backend& backend, HostGroup& group, std::vector<int> members, Channel channel);

  int rank() const override { return rank_; }
  int size() const override { return int(members_.size()); }
  std::string describe() const override { return "host memory"; }
  bool recordable() const override { return false; }
  void all_reduce(Tensor x) override;
  void all_gather_cols(Tensor out, Tensor part) override;
  void send(Tensor x, int to) override;
  void recv(Tensor x, int from) override;

 private:
  void enter(const char* what);
  void exchange(size_t count);
  void reduce_slices(size_t count);
  float* part(int rank, size_t count);
  void post(int to, const float* data, size_t count) { group_.send(members_[size_t(to)], channel_, data, count * sizeof(float)); }
  void take(int from, float* data, size_t count);
  void download(const Tensor& x, float* to);

  Backend& backend_;
  HostGroup& group_;
  const std::vector<int> members_;
  const Channel channel_;
  int rank_ = 0;
  std::vector<std::vector<float>> parts_;  // [ranks] what each gave
  int64_t step_ = -1;                      // whose collectives are counted
  int32_t nth_ = 0;
};

}  // namespace neox
