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
#include "cpu/int8_loop.h"

namespace neox {
namespace {

constexpr int kPasses = 4;       // of each way to read
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

/// Reads [p, p + bytes), a block of each stream in turn, and returns the sum of it all, so that no load can be left out. How many streams
/// fill what a core may ask for at once is the processor's secret, and whether its own prefetchers do.
template <int streams, bool prefetch> uint64_t read(const char* p, int64_t bytes) {
  Vec sums[4] = {};
  const int64_t per_stream = bytes / streams;
  for (int64_t at = 0; at < per_stream; at += kBlock)
    for (int stream = 0; stream < streams; stream++) {
      const auto* block = reinterpret_cast<const Vec*>(p + stream * per_stream + at);
      for (int64_t i = 0; i < kBlock / int64_t(sizeof(Vec)); i += 4) {
        if constexpr (prefetch) __builtin_prefetch(block + i + 64, 0, 2), __builtin_prefetch(block + i + 16, 0, 3);
        for (int j = 0; j < 4; j++) sums[j] += block[i + j];
      }
    }
  const Vec sum = sums[0] + sums[1] + sums[2] + sums[3];
  return sum[0] + sum[1];
}

/// Calls fn(thread) on all threads `passes` times, and returns the seconds of the fastest.
template <class Fn> double fastest(ThreadPool& pool, int passes, Fn&& fn) {
  double best = 1e9;
  for (int pass = 0; pass < passes; pass++) {
    const auto begin = std::chrono::steady_clock::now();
    pool.run(fn);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
  }
  return best;
}

struct Free {
  void operator()(char* p) const { std::free(p); }
};

int checked(int threads) {
  require(threads >= 0, "threads is ", threads, ", expected 1 or more, or 0 for the cores this process may use");
  return threads > 0 ? threads : available_cores();
}

/// Memory in no cache, a share for each thread, first touched by the thread that will use it.
struct Shares {
  Shares(ThreadPool& pool, int64_t bytes_of_each) : share(bytes_of_each), bytes(share * pool.size()) {
    memory.reset(static_cast<char*>(std::aligned_alloc(size_t(kHuge), size_t(bytes))));
    if (!memory) fail(ErrorKind::memory, "cannot allocate ", bytes, " bytes to read from");
    madvise(memory.get(), size_t(bytes), MADV_HUGEPAGE);
    pool.run([&](int thread) { std::memset(of(thread), 1, size_t(share)); });
  }
  char* of(int thread) const { return memory.get() + thread * share; }

  const int64_t share, bytes;
  std::unique_ptr<char, Free> memory;
};

}  // namespace

double read_bandwidth(int threads) {
  ThreadPool pool(checked(threads));
  const Shares shares(pool, bytes_for_each(pool.size()));
  const uint64_t expected = uint64_t(shares.share) / sizeof(uint64_t) * 0x0101010101010101u;
  std::vector<uint64_t> sums(size_t(pool.size()));
  double best = 1e9;
  for (const auto way : {read<1, false>, read<4, true>, read<16, false>}) {
    best = std::min(best, fastest(pool, kPasses, [&](int thread) { sums[size_t(thread)] = way(shares.of(thread), shares.share); }));
    for (const uint64_t sum : sums)
      if (sum != expected) fail(ErrorKind::runtime, "memory was read with the sum ", sum, ", expected ", expected);
  }
  return double(shares.bytes) / best;
}

double triad_bandwidth(int threads) {
  ThreadPool pool(checked(threads));
  const Shares shares(pool, bytes_for_each(pool.size()) / (3 * kHuge) * (3 * kHuge));
  const int64_t count = shares.share / 3 / int64_t(sizeof(float));
  const double seconds = fastest(pool, kPasses, [&](int thread) {
    auto* a = reinterpret_cast<float*>(shares.of(thread));
    const float *b = a + count, *c = b + count;
    for (int64_t i = 0; i < count; i++) a[i] = b[i] + 3.f * c[i];
  });
  return double(shares.bytes) / seconds;
}

double int8_peak(int threads) {
  constexpr int64_t kCount = 400'000;  // some milliseconds
  ThreadPool pool(checked(threads));
  const Int8Loop loop = int8_loop();
  return loop.operations * kCount * pool.size() / fastest(pool, kPasses, [&](int) { loop.run(kCount); });
}

std::string int8_instruction() { return int8_loop().instruction; }

}  // namespace neox
