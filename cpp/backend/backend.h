// SPDX-License-Identifier: Apache-2.0
// The boundary between the model, written once, and the devices that run it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "backend/args.h"
#include "base/random_fill.h"
#include "comm/communicator.h"
#include "comm/group.h"
#include "neox/error.h"

namespace neox {

/// What the largest step needs room for.
struct Bounds {
  int32_t tokens, kv, heads, head_dim, vocab;  // kv: positions of one sequence
  int32_t logit_rows;                          // of one call of sample
  int32_t narrow_inputs = 0;                   // of a weight that is multiplied by integers
};

/// Ops that were recorded, to be run again with what their buffers hold then.
class NEOX_API Replay {
 public:
  virtual ~Replay();
  virtual void run() = 0;
};

/// Products that were looked up in a gemm_config, each once, by shape and rows: those that took their algorithm from it, and those that did
/// not.
struct GemmUse {
  int32_t lines = 0;  // of the file
  int32_t hits = 0, misses = 0;
};

/// A device's memory and ops. An op never allocates, never waits, and keeps no state between calls; ops run in call order.
/// There are no default implementations: a backend has every op or does not compile.
class NEOX_API Backend {
 public:
  virtual ~Backend();
  virtual std::string name() const = 0;      // "cpu", "cuda"
  virtual std::string describe() const = 0;  // "avx512, 2 threads"

  virtual int64_t memory_free() const = 0;   // bytes that a KV cache may count on
  virtual void* allocate(size_t bytes) = 0;  // 256-byte aligned, contents undefined; throws Error(memory)
  virtual void release(void* p) noexcept = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;    // in order with the ops; `from` may change once it returns
  virtual void download(void* to, const void* from, size_t bytes) = 0;  // in order with the ops; `to` is whole after synchronize
  virtual void synchronize() = 0;
  /// This place in the order of ops and copies; wait() makes whole what was downloaded before it, whatever runs after it. Two may be open.
  virtual uint64_t mark() = 0;
  virtual void wait(uint64_t mark) = 0;
  /// Records the ops that body calls instead of running them; null where calling them costs no more than a replay would.
  virtual std::unique_ptr<Replay> record(const std::function<void()>& body) = 0;

  virtual DType activation_dtype(DType model) const = 0;  // of the operands of linear and attention
  virtual size_t packed_bytes(int64_t outputs, int64_t inputs, Format format) const = 0;
  /// Brings a row-major host weight [outputs, inputs] into this backend's layout at `to` and returns the view for Linear::weight. Formats
  /// of integers, on a CPU alone, are made of numbers, or of the same integers with their scales.
  virtual Tensor pack(void* to, const Tensor& weight, Format format) = 0;
  /// The same for a weight of random values.
  virtual Tensor pack_random(void* to, int64_t outputs, int64_t inputs, const RandomFill& values, Format format) = 0;
  virtual size_t page_bytes(const KvPages& kv) const = 0;  // of k alone, or v alone, in one page
  /// The data plane between those ranks of a group, which are not only this one and all come here. Sums may be sent as `wire`.
  virtual std::unique_ptr<Communicator> connect(HostGroup& group, const std::vector<int>& members, Channel channel, DType wire) = 0;
  /// Sizes the workspace, once, before the first op.
  virtual void reserve(const Bounds& bounds) = 0;
  /// Takes the algorithms of matrix products from this file of gpt_gemm's, before the first op. Throws Error where it is not to be used.
  virtual void use_gemm_config(const std::string& path) = 0;
  virtual GemmUse gemm_use() const = 0;

  virtual void embed(const EmbedArgs&) = 0;
  virtual void add_norm(const AddNormArgs&) = 0;
  virtual void linear(std::initializer_list<LinearArgs> parts) = 0;  // one or two
  virtual void attention(const AttentionArgs&) = 0;
  virtual void gather_rows(const GatherArgs&) = 0;
  virtual void copy_blocks(const CopyBlocksArgs&) = 0;
  virtual void sample(const SampleArgs&) = 0;
  virtual void beam_candidates(const BeamArgs&) = 0;
};

struct BackendConfig {
  std::string device = "auto";      // "auto", "cpu", "cuda"
  std::string isa = "auto";         // CPU kernels
  int32_t num_threads = 0;          // CPU threads, 0 = all this process may use
  int32_t gpu = 0;                  // which of the GPUs that CUDA sees
  bool custom_all_reduce = true;    // GPUs of one machine may add up with kernels of this library's own
  bool programmatic_launch = true;  // CUDA kernels may start before the one before them has ended
  // Attention of several rows on CUDA: "fused", or "unfused", with all scores in memory, of type "float32" or "model", the activations'.
  std::string attention = "fused";
  std::string unfused_scores = "float32";
  bool deterministic = false;  // a row's results are the same, to the bit, whatever other rows a step has; the CPU's always are
};
std::unique_ptr<Backend> make_backend(const BackendConfig& config);

/// A backend that lives in a plugin exports `extern "C" neox::Backend* neox_make_backend(int abi, const BackendConfig&)`, and
/// `extern "C" neox::Tuner* neox_make_tuner(int abi, DType, const std::vector<TuneCall>&, int32_t most_rows)` (tune.h).
constexpr int kBackendAbi = 9;

}  // namespace neox
