// SPDX-License-Identifier: Apache-2.0
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

#include "../nccl.h"
#include "base/check.h"

namespace neox::cuda {
namespace {

constexpr auto kAbortTime = std::chrono::seconds(10);

ncclDataType_t type_of(DType t) { return t == DType::f32 ? ncclFloat32 : t == DType::f16 ? ncclFloat16 : ncclBfloat16; }

void check(ncclResult_t result, const char* what, ncclComm_t comm = nullptr) {
  if (result == ncclSuccess) return;
  const char* more = ncclGetLastError(comm);
  fail(ErrorKind::runtime, "NCCL: ", what, ": ", ncclGetErrorString(result), more && *more ? concat(" (", more, ")") : "");
}

/// Calls return at once, also those that connect ranks at their first use; what they left to do is then waited for.
class NcclRanks final : public Nccl {
 public:
  NcclRanks(const std::string& id, int rank, int size, cudaStream_t stream, NcclPlugin::Until until)
      : stream_(stream), until_(std::move(until)) {
    ncclUniqueId unique;
    std::memcpy(&unique, id.data(), std::min(sizeof unique, id.size()));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    try {
      finish(ncclCommInitRankConfig(&comm_, size, unique, rank, &config), "connect the ranks");
    } catch (...) {
      abandon();
      throw;
    }
  }
  ~NcclRanks() override {
    abandon();  // ncclCommDestroy would wait for the other ranks to do the same
    if (aborted_.valid()) aborted_.wait_for(kAbortTime);
  }
  NcclRanks(const NcclRanks&) = delete;

  void all_reduce(void* x, size_t count, DType type) override {
    finish(ncclAllReduce(x, x, count, type_of(type), ncclSum, comm(), stream_), "all-reduce");
  }
  void all_gather(void* to, const void* from, size_t count, DType type) override {
    finish(ncclAllGather(from, to, count, type_of(type), comm(), stream_), "all-gather");
  }
  void send(const void* x, size_t count, DType type, int to) override {
    finish(ncclSend(x, count, type_of(type), to, comm(), stream_), "send");
  }
  void recv(void* x, size_t count, DType type, int from) override {
    finish(ncclRecv(x, count, type_of(type), from, comm(), stream_), "receive");
  }
  /// NCCL's kernels end at once; the rest waits until no recorded step holds them, so it goes on beside the caller.
  void abandon() noexcept override {
    if (!comm_) return;
    try {
      std::packaged_task<void()> abort([comm = std::exchange(comm_, nullptr)] { ncclCommAbort(comm); });
      aborted_ = abort.get_future();
      std::thread(std::move(abort)).detach();
    } catch (const std::exception&) {}  // no thread to be had: the communicator is left to the process's end
  }

 private:
  ncclComm_t comm() const {
    if (!comm_) fail(ErrorKind::runtime, "NCCL: the connection to the other ranks was given up");
    return comm_;
  }
  void finish(ncclResult_t result, const char* what) {
    if (result == ncclInProgress)
      until_([&] {
        check(ncclCommGetAsyncError(comm_, &result), what, comm_);
        return result != ncclInProgress;
      });
    check(result, what, comm_);
  }

  ncclComm_t comm_ = nullptr;
  std::future<void> aborted_;
  const cudaStream_t stream_;
  const NcclPlugin::Until until_;
};

class Plugin final : public NcclPlugin {
 public:
  int version() override {
    int version = 0;
    check(ncclGetVersion(&version), "ask for the version");
    return version;
  }
  std::string make_id() override {
    ncclUniqueId id;
    check(ncclGetUniqueId(&id), "make an id");
    return {reinterpret_cast<const char*>(&id), sizeof id};
  }
  std::unique_ptr<Nccl> connect(const std::string& id, int rank, int size, cudaStream_t stream, const Until& until) override {
    return std::make_unique<NcclRanks>(id, rank, size, stream, until);
  }
};

}  // namespace
}  // namespace neox::cuda

extern "C" NEOX_API neox::cuda::NcclPlugin* neox_nccl_plugin(int abi) {
  static neox::cuda::Plugin plugin;
  return abi == neox::cuda::kNcclAbi ? &plugin : nullptr;
}
