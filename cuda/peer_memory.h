// SPDX-License-Identifier: Apache-2.0
// Memory of GPUs of one machine that each other's kernels write into.
#pragma once
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "comm/group.h"
#include "exchange.h"

namespace neox::cuda {

/// Where a rank is, as the others need to know it.
struct Seat {
  uint64_t machine = 0;  // of its host's name and boot
  int64_t process = 0;
  char gpu[16] = {};  // UUID
  int32_t device = 0;
  int32_t nccl = 0;          // version, 0 where it cannot be loaded
  int32_t shares_gpus = 0;   // whether NCCL may be given one GPU several times (NCCL_MULTI_RANK_GPU_ENABLE)
  int32_t may_exchange = 0;  // neither the configuration nor NCCL_P2P_DISABLE forbids it
};
Seat own_seat(int device, bool custom_all_reduce);
/// T, which is plain data, of each of the members.
template <class T> std::vector<T> exchange_plain(HostGroup& group, const std::vector<int>& members, Channel channel, const T& mine) {
  std::vector<T> all;
  for (const std::string& said : exchange(group, members, channel, {reinterpret_cast<const char*>(&mine), sizeof mine})) {
    if (said.size() != sizeof mine)
      fail(ErrorKind::runtime, "another rank introduced itself in ", said.size(), " bytes, expected ", sizeof mine);
    std::memcpy(&all.emplace_back(), said.data(), sizeof mine);
  }
  return all;
}

struct Offer;

/// A rank's areas, and a view of the other members'.
class PeerMemory {
 public:
  /// All members come here. Null on all of them where one cannot reach another's memory.
  static std::unique_ptr<PeerMemory> connect(HostGroup& group, const std::vector<int>& members, Channel channel,
                                             const std::vector<Seat>& seats, size_t capacity, cudaStream_t stream);
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  const Peers& peers() const { return peers_; }
  void give_up() noexcept { *static_cast<volatile int*>(peers_.over) = 1; }

 private:
  PeerMemory() = default;
  bool open(int rank, const Seat& seat, const Seat& own, const Offer& offer);

  Peers peers_{};
  std::shared_ptr<char> own_;                  // in one process the others keep it alive too
  std::vector<std::shared_ptr<char>> theirs_;  // [ranks]
  void* cells_ = nullptr;
};

}  // namespace neox::cuda
