// SPDX-License-Identifier: Apache-2.0
#include "neox/machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/thread_pool.h"

namespace neox {
namespace {

constexpr int kStreams = 16;  // of each thread: on many processors one alone does not fill what a core may ask for at once
constexpr int kPasses = 6;
constexpr int64_t kBlock = 256;  // bytes of a stream before the next one's turn
constexpr int64_t kHuge = int64_t(2) << 20;

using Vec = uint64_t __attribute__((vector_size(16)));  // a load that every machine has; wider ones are no faster from memory

/// All that these threads could keep in last-level caches, of which each group of cores may have its own; 0 where the system does not say.
int64_t cache_within_reach(int threads) {
  const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index3/";
  std::ifstream size_file(folder + "size"), sharers_file(folder + "shared_cpu_map");
  int64_t kib = 0, sharers = 0;
  if (!(size_file >> kib)) return 0;
  for (char digit; sharers_file >> digit;)  // hexadecimal, with commas
    if (std::isxdigit(digit)) sharers += std::popcount(unsigned(digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10));
  const int64_t caches = std::max<int64_t>(sysconf(_SC_NPROCESSORS_CONF) / std::max<int64_t>(sharers, 1), 1);
  return kib * 1024 * std::min<int64_t>(caches, threads);
}

int64_t bytes_for_each(int threads) {
  const int64_t bytes = std::max(int64_t(256) << 20, 4 * cache_within_reach(threads));
  return (bytes / threads + kHuge - 1) / kHuge * kHuge;
}

/// Reads [p, p + bytes), a block of each stream in turn, and returns the sum of it all, so that no load can be left out.
uint64_t read(const char* p, int64_t bytes) {
  Vec sums[4] = {};
  const int64_t per_stream = bytes / kStreams;
  for (int64_t at = 0; at < per_stream; at += kBlock)
    for (int stream = 0; stream < kStreams; stream++) {
      const auto* block = reinterpret_cast<const Vec*>(p + stream * per_stream + at);
      for (int64_t i = 0; i < kBlock / int64_t(sizeof(Vec)); i += 4)
        for (int j = 0; j < 4; j++) sums[j] += block[i + j];
    }
  const Vec sum = sums[0] + sums[1] + sums[2] + sums[3];
  return sum[0] + sum[1];
}

struct Free {
  void operator()(char* p) const { std::free(p); }
};

}  // namespace

double read_bandwidth(int threads) {
  require(threads >= 0, "threads is ", threads, ", expected 1 or more, or 0 for the cores this process may use");
  ThreadPool pool(threads > 0 ? threads : available_cores());
  const int64_t share = bytes_for_each(pool.size()), bytes = share * pool.size();
  const std::unique_ptr<char, Free> buffer(static_cast<char*>(std::aligned_alloc(size_t(kHuge), size_t(bytes))));
  if (!buffer) fail(ErrorKind::memory, "cannot allocate ", bytes, " bytes to read from");
  madvise(buffer.get(), size_t(bytes), MADV_HUGEPAGE);
  pool.run([&](int thread) { std::memset(buffer.get() + thread * share, 1, size_t(share)); });  // near the thread that will read it

  double best = 0;
  std::vector<uint64_t> sums(size_t(pool.size()));
  for (int pass = 0; pass < kPasses; pass++) {
    const auto begin = std::chrono::steady_clock::now();
    pool.run([&](int thread) { sums[size_t(thread)] = read(buffer.get() + thread * share, share); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, double(bytes) / seconds.count());
  }
  const uint64_t expected = uint64_t(share) / sizeof(uint64_t) * 0x0101010101010101u;
  for (const uint64_t sum : sums)
    if (sum != expected) fail(ErrorKind::runtime, "memory was read with the sum ", sum, ", expected ", expected);
  return best;
}

}  // namespace neox
