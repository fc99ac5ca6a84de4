// SPDX-License-Identifier: Apache-2.0
// How the programs that check take times: by replays of a recorded graph.
#pragma once
#include <algorithm>

#include "check_memory.h"

namespace neox::cuda::trial {

static __global__ void read_all(const uint4* x, size_t n, uint32_t* out) {
  uint32_t sum = 0;
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
    const uint4 v = __ldcs(x + i);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 12345) *out = sum;
}
static __global__ void fill(uint16_t* x, size_t n, uint32_t seed) {  // f16 with a spread of about 1
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
    uint64_t z = (i + seed) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 31) * 0x94D049BB133111EBull;
    x[i] = uint16_t(z >> 48 & 0x8000) | uint16_t(0x3400 + (z >> 20) % 0x0a00);
  }
}
/// Median of 20 replays of what body enqueues.
template <class Body> double median_us(cudaStream_t stream, Body body) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  body();
  ok(cudaStreamEndCapture(stream, &graph), "capture");
  ok(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t a, b;
  ok(cudaEventCreate(&a), "event"), ok(cudaEventCreate(&b), "event");
  std::vector<float> times;
  for (int i = 0; i < 23; i++) {
    float ms;
    ok(cudaEventRecord(a, stream), "record"), ok(cudaGraphLaunch(exec, stream), "replay"), ok(cudaEventRecord(b, stream), "record");
    ok(cudaEventSynchronize(b), "replay"), ok(cudaEventElapsedTime(&ms, a, b), "time");
    if (i > 2) times.push_back(ms * 1000);
  }
  ok(cudaGraphExecDestroy(exec), "graph"), ok(cudaGraphDestroy(graph), "graph");
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}
inline double read_rate(cudaStream_t stream) {  // bytes per microsecond
  const Memory m(size_t(4) << 30);
  return double(m.bytes()) /
         median_us(stream, [&] { read_all<<<2048, 512, 0, stream>>>(m.data<uint4>(), m.bytes() / 16, m.data<uint32_t>()); });
}

}  // namespace neox::cuda::trial
