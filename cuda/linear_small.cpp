// SPDX-License-Identifier: Apache-2.0
#include "linear_small.h"

#include <algorithm>
#include <climits>

namespace neox::cuda {
namespace {

constexpr size_t kPartial = 2 * 8 * 1024;  // bytes of a CTA's two pieces of cut tiles, at most: 2 float4 of 256 threads each
constexpr int kMostCtas = 512, kWarps = 8;

bool whole_vectors(const Tensor& t) {
  return (reinterpret_cast<uintptr_t>(t.data) | size_t(t.ld) * size_of(t.dtype) | size_t(t.cols) * size_of(t.dtype)) % 16 == 0;
}

bool takes(const LinearArgs& a, const LinearArgs& first) {
  const Tensor& w = a.w.weight;
  return a.x.dtype == first.x.dtype && w.dtype == a.x.dtype && a.x.rows == first.x.rows && a.x.cols > 0 && w.rows <= INT_MAX / 2 &&
         whole_vectors(a.x) && whole_vectors(w);
}

SmallPart part_of(const LinearArgs& a) {
  const auto size = int64_t(size_of(a.x.dtype));
  const int vectors = int(a.x.cols * size / 16);
  return {.w = static_cast<const char*>(a.w.weight.data),
          .x = static_cast<const char*>(a.x.data),
          .out = a.out.data,
          .bias = a.w.bias.data,
          .w_ld = a.w.weight.ld * size,
          .x_ld = a.x.ld * size,
          .out_ld = a.out.ld,
          .n = int(a.w.weight.rows),
          .vectors = vectors,
          .units = (vectors + 7) / 8,
          .out_type = a.out.dtype,
          .bias_type = a.w.bias.dtype,
          .act = a.act};
}

}  // namespace

SmallLinear::SmallLinear(const Stream& stream, void* workspace, size_t workspace_bytes)
    : stream_(stream), workspace_(workspace), workspace_bytes_(workspace_bytes), processors_(attribute(cudaDevAttrMultiProcessorCount)) {
  const size_t bytes = kMostCtas * kWarps * sizeof(unsigned);
  check(cudaMalloc(reinterpret_cast<void**>(&arrived_), bytes), "allocate memory");
  check(cudaMemsetAsync(arrived_, 0, bytes, stream_), "clear memory");
}

SmallLinear::~SmallLinear() { cudaFree(arrived_); }

bool SmallLinear::takes(std::initializer_list<LinearArgs> parts) {
  const LinearArgs& first = *parts.begin();
  const int64_t rows = first.x.rows, most = first.x.dtype == DType::f32 ? 16 : 8;
  return rows >= 1 && rows <= most && std::all_of(parts.begin(), parts.end(), [&](const LinearArgs& a) { return cuda::takes(a, first); });
}

void SmallLinear::run(std::initializer_list<LinearArgs> parts) const {
  const LinearArgs& first = *parts.begin();
  SmallCall call{.rows = int(first.x.rows), .partial = static_cast<float4*>(workspace_), .arrived = arrived_};
  for (const LinearArgs& part : parts) call.parts[&part - parts.begin()] = part_of(part);
  call.sum = parts.size() == 2 && call.parts[0].out == call.parts[1].out;
  const int ctas = std::min({processors_, kMostCtas, int(workspace_bytes_ / kPartial)});
  if (first.x.dtype == DType::f32) small_f32(call, ctas, stream_);
  else if (first.x.dtype == DType::f16) small_f16(call, ctas, stream_);
  else small_bf16(call, ctas, stream_);
}

}  // namespace neox::cuda
