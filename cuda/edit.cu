// SPDX-License-Identifier: Apache-2.0
// Rows of logits [vocab] f32 as their draws see them: one CTA copies a row and edits the copy. Floor: the row read and written once.
#include "device.cuh"
#include "edit.h"
#include "select.cuh"

namespace neox::cuda {
namespace {

__device__ float edited(float z, const Edit& edit) {
  z += edit.bias;
  return (z < 0 ? z * edit.factor : z / edit.factor) + edit.offset;
}

__global__ __launch_bounds__(kThreads) void edit_kernel(const Tensor logits, const Edits edits, int32_t first, float* out) {
  grid_launch();
  grid_wait();
  const EditRow e = edits.rows[blockIdx.x];
  const int64_t row = e.row - first;
  if (e.row < 0 || row < 0 || row >= logits.rows) return;
  const float* from = static_cast<const float*>(logits.data) + row * logits.ld;
  float* to = out + row * logits.cols;
  const auto vocab = int32_t(logits.cols), thread = int32_t(threadIdx.x);
  const double log_total = e.logprobs ? log_of_sum(from, vocab, largest(from, vocab)) : 0.0;
  const bool all = e.allowed_begin == e.allowed_end;
  for (int32_t id = thread; id < vocab; id += kThreads) to[id] = all ? float(double(from[id]) - log_total) : -INFINITY;
  __syncthreads();
  for (int32_t i = e.allowed_begin + thread; i < e.allowed_end; i += kThreads) {
    const int32_t id = edits.ids[i];
    to[id] = float(double(from[id]) - log_total);
  }
  __syncthreads();
  for (int32_t i = e.edits_begin + thread; i < e.edits_end; i += kThreads)
    to[edits.edits[i].id] = edited(to[edits.edits[i].id], edits.edits[i]);
  __syncthreads();
  for (int32_t i = e.bans_begin + thread; i < e.bans_end; i += kThreads) to[edits.ids[i]] = -INFINITY;
}

}  // namespace

void edit(const Tensor& logits, const Edits& edits, int32_t first, float* out, const Stream& stream) {
  if (edits.count == 0) return;
  launch({.name = "edit", .grid = unsigned(edits.count), .block = kThreads, .stream = stream}, edit_kernel, logits, edits, first, out);
}

}  // namespace neox::cuda
