// SPDX-License-Identifier: Apache-2.0
// What the GPU itself can do, for benchmarks: see neox/machine.h, whose functions call these in the plugin.
#include <algorithm>
#include <vector>

#include "gemm.h"
#include "types.cuh"

namespace neox::cuda {
namespace {

constexpr int kPasses = 10;
constexpr int kThreads = 512;
constexpr int kInFlight = 8;                      // loads of a thread
constexpr int64_t kReadBytes = int64_t(1) << 30;  // far more than any cache
constexpr int64_t kSize = 8192;                   // of a matrix

using Words = ulonglong2;

__global__ __launch_bounds__(kThreads) void read_kernel(const Words* from, int64_t n, unsigned long long* sum) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  unsigned long long mine = 0;
  int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + (kInFlight - 1) * stride < n; i += kInFlight * stride) {
    Words words[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; j++) words[j] = from[i + j * stride];
#pragma unroll
    for (int j = 0; j < kInFlight; j++) mine += words[j].x + words[j].y;
  }
  for (; i < n; i += stride) mine += from[i].x + from[i].y;
  for (int lanes = 16; lanes > 0; lanes /= 2) mine += __shfl_xor_sync(~0u, mine, lanes);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, mine);
}

/// Uniform in [-1, 1]: a product of zeros takes less power, and is faster, than one of numbers.
template <class E> __global__ __launch_bounds__(kThreads) void fill_kernel(E* to, int64_t n, uint32_t seed) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  uint32_t h = uint32_t(i) * 0x9e3779b1u ^ seed;
  h = (h ^ h >> 16) * 0x85ebca6bu;
  h = (h ^ h >> 13) * 0xc2b2ae35u;
  to[i] = narrow<E>(float(int32_t(h ^ h >> 16)) * 0x1p-31f);
}

/// A stream with its own memory, and a clock on it.
class Bench {
 public:
  Bench() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream");
    for (cudaEvent_t& e : events_) check(cudaEventCreate(&e), "create an event");
  }
  ~Bench() {
    for (void* p : memory_) cudaFree(p);
    for (cudaEvent_t e : events_) cudaEventDestroy(e);
    cudaStreamDestroy(stream_);
  }
  Bench(const Bench&) = delete;

  cudaStream_t stream() const { return stream_; }
  void* allocate(size_t bytes) {
    void* p = nullptr;
    if (cudaMalloc(&p, bytes) == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // so that no later call reports it again
      fail(ErrorKind::memory, "cannot allocate ", bytes, " bytes of GPU memory to measure with: lower kv_cache_memory");
    }
    memory_.push_back(p);
    return p;
  }
  /// The shortest of a few runs, after one that warms up, in seconds.
  template <class Run> double seconds(const Run& run) {
    float best = 0;
    for (int pass = -1; pass < kPasses; pass++) {
      check(cudaEventRecord(events_[0], stream_), "record an event");
      run();
      check(cudaEventRecord(events_[1], stream_), "record an event");
      check(cudaEventSynchronize(events_[1]), "measure");
      float ms = 0;
      check(cudaEventElapsedTime(&ms, events_[0], events_[1]), "measure");
      best = pass <= 0 ? ms : std::min(best, ms);
    }
    return double(best) * 1e-3;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t events_[2] = {};
  std::vector<void*> memory_;
};

int processors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "ask for the device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "ask what the device has");
  return count;
}

double read_bandwidth() {
  Bench bench;
  auto* data = static_cast<Words*>(bench.allocate(kReadBytes));
  auto* sum = static_cast<unsigned long long*>(bench.allocate(sizeof(unsigned long long)));
  check(cudaMemsetAsync(data, 1, kReadBytes, bench.stream()), "fill memory");
  check(cudaMemsetAsync(sum, 0, sizeof *sum, bench.stream()), "fill memory");
  const Launch l{.name = "read memory", .grid = unsigned(4 * processors()), .block = kThreads, .stream = bench.stream()};
  const double seconds = bench.seconds([&] { launch(l, read_kernel, data, kReadBytes / int64_t(sizeof(Words)), sum); });
  unsigned long long found = 0;
  check(cudaMemcpy(&found, sum, sizeof found, cudaMemcpyDeviceToHost), "download");
  const unsigned long long expected = (kPasses + 1) * uint64_t(kReadBytes / 8) * 0x0101010101010101u;
  if (found != expected) fail(ErrorKind::runtime, "GPU memory was read with the sum ", found, ", expected ", expected);
  return double(kReadBytes) / seconds;
}

double matmul_peak(DType dtype) {
  Bench bench;
  const auto matrix = [&] {
    return Tensor{
        .data = bench.allocate(size_t(kSize * kSize) * size_of(dtype)), .rows = kSize, .cols = kSize, .ld = kSize, .dtype = dtype};
  };
  const Tensor x = matrix(), w = matrix(), out = matrix();
  dispatch(dtype, [&](auto t) {
    using E = Element<t>;
    const Launch l{.name = "fill a matrix", .grid = unsigned(kSize * kSize / kThreads), .block = kThreads, .stream = bench.stream()};
    launch(l, fill_kernel<E>, static_cast<E*>(x.data), kSize * kSize, 1);
    launch(l, fill_kernel<E>, static_cast<E*>(w.data), kSize * kSize, 2);
  });
  Gemm gemm(bench.stream(), bench.allocate(kWorkspaceBytes));
  return 2. * kSize * kSize * kSize / bench.seconds([&] { gemm.run({.out = out, .x = x, .w = w}); });
}

}  // namespace
}  // namespace neox::cuda

extern "C" NEOX_API double neox_gpu_read_bandwidth() { return neox::cuda::read_bandwidth(); }
extern "C" NEOX_API double neox_gpu_matmul_peak(int dtype) { return neox::cuda::matmul_peak(neox::DType(dtype)); }
