// SPDX-License-Identifier: Apache-2.0
#include "cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>

#include "base/check.h"
#include "cpu/cpu_backend_impl.h"

namespace neox {

std::unique_ptr<Backend> make_cpu_backend(const std::string& isa, int num_threads) {
  const Kernels* best = nullptr;
  for (const IsaEntry& entry : isa_table()) {
    const bool named = isa == entry.kernels->name;
    if (named && !entry.supported) fail(ErrorKind::unsupported, "isa is '", isa, "', which this processor does not have");
    if (entry.supported && (named || isa == "auto")) best = entry.kernels;
  }
  require(best != nullptr, "isa is '", isa,
          "', expected auto, or one that this build has: generic, on x86-64 also avx2, avx512 and avx512vnni");
  return std::make_unique<CpuBackend>(*best, num_threads > 0 ? num_threads : available_cores());
}

CpuBackend::CpuBackend(const Kernels& kernels, int threads) : kernels_(kernels), pool_(threads), scratch_(size_t(pool_.size())) {
  for (Scratch& s : scratch_) s.wide.resize(kWideBytes / sizeof(float));
}

std::string CpuBackend::describe() const { return concat(kernels_.name, ", ", pool_.size(), pool_.size() == 1 ? " thread" : " threads"); }

int64_t CpuBackend::memory_free() const {
  int64_t available = int64_t(1) << 30;  // where the system does not say
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key; meminfo >> key; meminfo.ignore(256, '\n'))
    if (int64_t kib; key == "MemAvailable:" && meminfo >> kib) available = kib << 10;
  int64_t limit, used;  // a container's own limit, if it has one
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit && std::ifstream("/sys/fs/cgroup/memory.current") >> used)
    available = std::min(available, std::max<int64_t>(limit - used, 0));
  return available;
}

// So few rows of inputs that each thread makes its own integers of all of them sooner than it would wait for others.
constexpr int64_t kOwnRows = 16, kOwnInputs = 16384;
static bool few(const Tensor& x) { return x.rows <= kOwnRows && x.rows * x.cols <= kOwnInputs; }

// Whole 2 MiB pages for what is large: a walk over packed weights then touches few of them.
constexpr size_t kHuge = size_t(2) << 20;

void* CpuBackend::allocate(size_t bytes) {
  const size_t alignment = bytes >= 2 * kHuge ? kHuge : 256;
  void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!p) fail(ErrorKind::memory, "cannot allocate ", bytes, " bytes of host memory");
  if (alignment == kHuge) madvise(p, bytes / kHuge * kHuge, MADV_HUGEPAGE);  // not of what would be left empty
  return p;
}

void CpuBackend::release(void* p) noexcept { std::free(p); }
void CpuBackend::upload(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void CpuBackend::download(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

size_t CpuBackend::page_bytes(const KvPages& kv) const { return size_t(PageLayout(kv).page); }

void CpuBackend::use_gemm_config(const std::string& path) {
  fail(ErrorKind::unsupported, path, " is for CUDA: the CPU has one way to make a product");
}

void CpuBackend::reserve(const Bounds& b) {
  scores_ld_ = (int64_t(b.kv) + kLanes - 1) / kLanes * kLanes;
  items_.reserve(size_t(b.tokens) * b.heads);
  for (Buffer& rows : narrow_) rows = Buffer(*this, narrow_bytes(std::max(b.tokens, b.logit_rows), b.narrow_inputs));
  for (Scratch& s : scratch_) {
    for (Buffer& rows : s.narrow) rows = Buffer(*this, narrow_bytes(kOwnRows, kOwnInputs / kOwnRows) + kOwnInputs);
    s.scores.resize(size_t(kernels_.attention_rows) * scores_ld_);
    s.weights.resize(size_t(b.vocab));
    s.edited.resize(size_t(b.vocab));
    s.ids.reserve(size_t(b.vocab));
  }
}

void CpuBackend::add_norm(const AddNormArgs& a) {
  pool_.split(a.x.rows, [&](int64_t begin, int64_t end) { kernels_.add_norm(a, begin, end); });
}

/// Makes integers of a part's inputs, where its weight wants them: its own for each thread, or all threads together for all.
NarrowRows CpuBackend::narrow(const LinearArgs& a, size_t part, int thread) {
  const Tensor &x = a.x, &w = a.w.weight;
  const bool own = few(x);
  const NarrowRows rows((own ? scratch_[size_t(thread)].narrow[part] : narrow_[part]).data<char>(), x.rows, x.cols, w.format());
  const int64_t n = own ? 1 : pool_.size(), t = own ? 0 : thread;
  kernels_.narrow_rows(x, w.format(), rows, x.rows * t / n, x.rows * (t + 1) / n);
  return rows;
}

void CpuBackend::linear(std::initializer_list<LinearArgs> parts) {
  // Parts with one `out` have the same panels in the same thread, so they need no barrier between them.
  const auto is_narrow = [](const LinearArgs& a) { return has_narrow_inputs(a.w.weight.dtype); };
  const bool meet = std::any_of(parts.begin(), parts.end(), [&](const LinearArgs& a) { return is_narrow(a) && !few(a.x); });
  pool_.run([&](int thread) {
    std::array<std::optional<NarrowRows>, 2> narrow_rows;
    for (size_t i = 0; i < parts.size(); i++)
      if (const LinearArgs& part = parts.begin()[i]; is_narrow(part)) narrow_rows[i] = narrow(part, i, thread);
    if (meet) pool_.barrier(thread);
    for (size_t i = 0; i < parts.size(); i++) {
      const LinearArgs& part = parts.begin()[i];
      const int64_t panels = panels_of(part.w.weight.rows);
      const int64_t begin = panels * thread / pool_.size(), end = panels * (thread + 1) / pool_.size();
      if (begin == end) continue;
      const LinearTask task{.args = part,
                            .accumulate = i > 0 && part.out.data == parts.begin()->out.data,
                            .wide = scratch_[size_t(thread)].wide.data(),
                            .narrow = narrow_rows[i] ? &*narrow_rows[i] : nullptr};
      (task.narrow ? kernels_.linear_narrow : kernels_.linear)(task, begin, end);
    }
  });
}

/// Cuts the op into tiles of rows and ranges of heads: one head at a time for many rows, whose keys then stay in the cache; as many head
/// ranges as threads for single rows.
void CpuBackend::list_attention(const AttentionArgs& a) {
  items_.clear();
  int64_t cost = 0;
  for (int32_t seq = 0; seq < a.step.seqs; seq++) {
    const int32_t rows = a.step.q_start[seq + 1] - a.step.q_start[seq], seen = a.step.kv_len[seq] - rows;
    const int32_t tiles = (rows + kernels_.attention_rows - 1) / kernels_.attention_rows;
    const int32_t ranges = tiles == 1 ? std::min(a.kv.heads, pool_.size()) : a.kv.heads;
    for (int32_t range = 0; range < ranges; range++)
      for (int32_t tile = 0; tile < tiles; tile++) {
        const int32_t head = a.kv.heads * range / ranges, heads = a.kv.heads * (range + 1) / ranges - head;
        const int32_t row = rows * tile / tiles, n = rows * (tile + 1) / tiles - row;
        cost += int64_t(heads) * n * (seen + row + n);
        items_.push_back({.seq = seq, .row = row, .rows = n, .head = head, .heads = heads, .cost = cost});
      }
  }
}

void CpuBackend::attention(const AttentionArgs& a) {
  list_attention(a);
  const int64_t tokens = a.qkv.rows, total = items_.empty() ? 0 : items_.back().cost;
  const bool single = a.step.max_q == 1;  // then nobody but the thread that stores a row's key needs it
  pool_.run([&](int thread) {
    const int n = pool_.size();
    if (!single) {
      const int64_t token = tokens * thread / n;
      kernels_.rotate_append(a, {.token = token, .tokens = tokens * (thread + 1) / n - token, .head = 0, .heads = a.kv.heads});
      pool_.barrier(thread);  // a sequence's keys may have been stored by other threads
    }
    auto boundary = [&](int64_t t) {  // first item that ends past t / n of the cost
      return std::partition_point(items_.begin(), items_.end(), [&](const AttentionItem& i) { return i.cost * n <= total * t; });
    };
    const auto end = thread + 1 == n ? items_.end() : boundary(thread + 1);
    Scratch& scratch = scratch_[size_t(thread)];
    for (auto item = thread == 0 ? items_.begin() : boundary(thread); item != end; ++item) {
      if (single) kernels_.rotate_append(a, {.token = a.step.q_start[item->seq], .tokens = 1, .head = item->head, .heads = item->heads});
      kernels_.attend({.args = a, .scores = scratch.scores.data(), .scores_ld = scores_ld_}, *item);
    }
  });
}

}  // namespace neox
