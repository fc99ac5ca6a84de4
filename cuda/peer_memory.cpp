// SPDX-License-Identifier: Apache-2.0
#include "peer_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>

#include "nccl.h"

namespace neox::cuda {

/// What a rank tells of its areas: to its own process where they are, to others how to open them.
struct Offer {
  cudaIpcMemHandle_t handle{};
  const std::shared_ptr<char>* memory = nullptr;
  int32_t ready = 0;
};

namespace {

constexpr double kPatience = 1.25;  // of the group's time-out: the host gives up first, and says why

uint64_t this_machine() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  return std::hash<std::string>()(name + boot);
}

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value && std::strcmp(value, "0") != 0 && *value;
}

bool succeeds(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();  // so that no later call reports it again
  return error == cudaSuccess;
}

}  // namespace

Seat own_seat(int device, bool custom_all_reduce) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, device), "ask what the device is");
  Seat seat{
      .machine = this_machine(), .process = getpid(), .device = device, .may_exchange = custom_all_reduce && !is_set("NCCL_P2P_DISABLE")};
  std::memcpy(seat.gpu, &p.uuid, sizeof seat.gpu);
  seat.shares_gpus = is_set("NCCL_MULTI_RANK_GPU_ENABLE");
  try {
    seat.nccl = load_nccl().version();
  } catch (const Error&) {}  // told once all know that they need it
  return seat;
}

std::unique_ptr<PeerMemory> PeerMemory::connect(HostGroup& group, const std::vector<int>& members, Channel channel,
                                                const std::vector<Seat>& seats, size_t capacity, cudaStream_t stream) {
  std::unique_ptr<PeerMemory> made(new PeerMemory);
  Peers& p = made->peers_;
  p.ranks = int(members.size());
  p.rank = int(std::find(members.begin(), members.end(), group.rank()) - members.begin());
  p.capacity = capacity;
  p.patience = uint64_t(group.timeout() * kPatience * 1e9);
  const Seat& own = seats[size_t(p.rank)];
  Offer offer;
  char* memory = nullptr;
  if (succeeds(cudaMalloc(reinterpret_cast<void**>(&memory), 3 * members.size() * capacity))) {
    made->own_ = std::shared_ptr<char>(memory, [](char* m) { cudaFree(m); });
    p.areas[p.rank] = memory;
    check(cudaMalloc(&made->cells_, kExchangeCells * sizeof(uint4)), "allocate memory");
    check(cudaHostAlloc(reinterpret_cast<void**>(&p.over), sizeof(int), cudaHostAllocMapped), "allocate pinned host memory");
    *p.over = 0;
    p.cells = static_cast<uint4*>(made->cells_);
    clear_peers(p, stream);
    check(cudaStreamSynchronize(stream), "fill memory");
    offer.memory = &made->own_;
    offer.ready = succeeds(cudaIpcGetMemHandle(&offer.handle, memory)) ||
                  std::all_of(seats.begin(), seats.end(), [&](const Seat& s) { return s.process == own.process; });
  }
  const std::vector<Offer> offers = exchange_plain(group, members, channel, offer);
  int32_t reached = 1;
  made->theirs_.resize(members.size());
  for (int r = 0; r < p.ranks && reached; r++)
    if (r != p.rank) reached = offers[size_t(r)].ready && offer.ready && made->open(r, seats[size_t(r)], own, offers[size_t(r)]);
  const std::vector<int32_t> all = exchange_plain(group, members, channel, reached);  // hence nobody's offer goes before all have taken it
  return std::count(all.begin(), all.end(), 1) == p.ranks ? std::move(made) : nullptr;
}

bool PeerMemory::open(int rank, const Seat& seat, const Seat& own, const Offer& offer) {
  auto& theirs = theirs_[size_t(rank)];
  if (seat.process == own.process) {
    if (seat.device != own.device) {
      int can = 0;
      if (!succeeds(cudaDeviceCanAccessPeer(&can, own.device, seat.device)) || !can) return false;
      const cudaError_t error = cudaDeviceEnablePeerAccess(seat.device, 0);
      if (!succeeds(error) && error != cudaErrorPeerAccessAlreadyEnabled) return false;
    }
    theirs = *offer.memory;
  } else {
    void* opened = nullptr;
    if (!succeeds(cudaIpcOpenMemHandle(&opened, offer.handle, cudaIpcMemLazyEnablePeerAccess))) return false;
    theirs = std::shared_ptr<char>(static_cast<char*>(opened), [](char* m) { cudaIpcCloseMemHandle(m); });
  }
  peers_.areas[rank] = theirs.get();
  return true;
}

PeerMemory::~PeerMemory() {
  if (peers_.over) cudaFreeHost(peers_.over);
  cudaFree(cells_);
}

}  // namespace neox::cuda
