// SPDX-License-Identifier: Apache-2.0
// NCCL, which is never part of libneox_cuda.so: a plugin beside it, libneox_nccl.so, is linked to it, so that one GPU needs none.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>

#include "base/dtype.h"
#include "neox/error.h"

namespace neox::cuda {

/// Some ranks and the stream of this one. Counts are of elements.
class Nccl {
 public:
  virtual ~Nccl() = default;
  virtual void all_reduce(void* x, size_t count, DType type) = 0;                     // in place
  virtual void all_gather(void* to, const void* from, size_t count, DType type) = 0;  // to: the ranks' one after the other
  virtual void send(const void* x, size_t count, DType type, int to) = 0;
  virtual void recv(void* x, size_t count, DType type, int from) = 0;
  virtual void abandon() noexcept = 0;  // ends what waits for other ranks; nothing works after it
};

/// What the plugin's `extern "C" NcclPlugin* neox_nccl_plugin(int abi)` returns, or null where the ABI is another.
class NcclPlugin {
 public:
  using Until = std::function<void(const std::function<bool()>& done)>;  // waits, and throws when it is not to wait any more

  virtual ~NcclPlugin() = default;
  virtual int version() = 0;          // 22803 = 2.28.3
  virtual std::string make_id() = 0;  // what one rank makes, and all take
  /// All ranks come here. Throws Error(runtime) with NCCL's own words.
  virtual std::unique_ptr<Nccl> connect(const std::string& id, int rank, int size, cudaStream_t stream, const Until& until) = 0;
};
constexpr int kNcclAbi = 1;

/// Throws Error(unsupported) where this build has no NCCL, or it cannot be loaded.
NcclPlugin& load_nccl();

}  // namespace neox::cuda
