// SPDX-License-Identifier: Apache-2.0
#include "linear_small.h"

#include <algorithm>
#include <climits>

#include "boxes.h"

namespace neox::cuda {
namespace {

constexpr size_t kPartial =
    2 * 8 * 1024;  // bytes of a CTA's two pieces of cut tiles in small_kernel, at most: 2 float4 of 256 threads each
constexpr size_t kStreamPartial = kTileRows * kMostStreamed * sizeof(float);  // of a CTA's one in stream_kernel
constexpr int kMostCtas = 512, kWarps = 8;

bool whole_vectors(const Tensor& t) {
  return (reinterpret_cast<uintptr_t>(t.data) | size_t(t.ld) * size_of(t.dtype) | size_t(t.cols) * size_of(t.dtype)) % 16 == 0;
}

bool takes(const LinearArgs& a, const LinearArgs& first) {
  const Tensor& w = a.w.weight;
  return a.x.dtype == first.x.dtype && w.dtype == a.x.dtype && a.x.rows == first.x.rows && a.x.cols > 0 && w.rows <= INT_MAX / 2 &&
         whole_vectors(a.x) && whole_vectors(w);
}

SmallPart part_of(const LinearArgs& a, int unit) {
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
          .units = (vectors + unit - 1) / unit,
          .out_type = a.out.dtype,
          .bias_type = a.w.bias.dtype,
          .act = a.act};
}

/// unit: vectors of 16 bytes in a unit's row
SmallCall call_of(std::initializer_list<LinearArgs> parts, int unit, void* partial, unsigned* arrived) {
  SmallCall call{.rows = int(parts.begin()->x.rows), .partial = static_cast<float4*>(partial), .arrived = arrived};
  for (const LinearArgs& part : parts) call.parts[&part - parts.begin()] = part_of(part, unit);
  const auto& [first, second] = call.parts;
  const auto tiles = [](const SmallPart& part) { return (part.n + kTileRows - 1) / kTileRows; };
  call.sum = parts.size() == 2 && first.out == second.out;
  call.tiles = tiles(first);
  call.per_tile = first.units + (call.sum ? second.units : 0);
  call.total = call.tiles * call.per_tile + (call.sum ? 0 : tiles(second) * second.units);
  return call;
}

CUtensorMap boxes_of(const Tensor& t, int rows) {
  return boxes<2>(t.data, {cuuint64_t(t.cols), cuuint64_t(t.rows)}, {cuuint64_t(t.ld)}, {64, cuuint32_t(rows)});
}
bool can_be_grouped(const Tensor& w) { return w.rows % 8 == 0 && w.cols % 64 == 0; }
/// 8 rows at a time: a box then comes in runs of 256 bytes, not 128, which memory gives sooner (4 % on an H100).
CUtensorMap grouped_boxes_of(const Tensor& w) {
  return boxes<4>(w.data, {64, 8, cuuint64_t(w.cols / 64), cuuint64_t(w.rows / 8)}, {cuuint64_t(w.ld), 64, cuuint64_t(w.ld) * 8},
                  {64, 8, kStreamVectors / 8, kTileRows / 8});
}

}  // namespace

SmallLinear::SmallLinear(const Stream& stream, void* workspace, size_t workspace_bytes)
    : stream_(stream), workspace_(workspace), workspace_bytes_(workspace_bytes), streams_(kernels_have_warpgroups()),
      processors_(attribute(cudaDevAttrMultiProcessorCount)) {
  const size_t bytes = kMostCtas * kWarps * sizeof(unsigned);
  check(cudaMalloc(reinterpret_cast<void**>(&arrived_), bytes), "allocate memory");
  check(cudaMemsetAsync(arrived_, 0, bytes, stream_), "clear memory");
}

SmallLinear::~SmallLinear() { cudaFree(arrived_); }

bool SmallLinear::takes(std::initializer_list<LinearArgs> parts) const {
  const LinearArgs& first = *parts.begin();
  const DType type = first.x.dtype;
  const int64_t rows = first.x.rows, most = streams(type) ? kMostStreamed : type == DType::f32 ? 16 : 8;  // cuBLASLt is faster beyond
  return rows >= 1 && rows <= most && std::all_of(parts.begin(), parts.end(), [&](const LinearArgs& a) { return cuda::takes(a, first); });
}

void SmallLinear::run(std::initializer_list<LinearArgs> parts) const {
  const DType type = parts.begin()->x.dtype;
  const bool streamed = streams(type);
  StreamCall call{call_of(parts, streamed ? kStreamVectors : kSmallVectors, workspace_, arrived_)};
  const int least = streamed ? 1 : 2;  // units of a share, where there are few
  const int ctas =
      std::min({processors_, kMostCtas, int(workspace_bytes_ / (streamed ? kStreamPartial : kPartial)), (call.total + least - 1) / least});
  if (!streamed) return (type == DType::f32 ? small_f32 : type == DType::f16 ? small_f16 : small_bf16)(call, ctas, stream_);
  call.grouped = std::all_of(parts.begin(), parts.end(), [](const LinearArgs& a) { return can_be_grouped(a.w.weight); });
  for (const LinearArgs& a : parts) {
    const auto i = &a - parts.begin();
    call.w_boxes[i] = call.grouped ? grouped_boxes_of(a.w.weight) : boxes_of(a.w.weight, kTileRows);
    call.x_boxes[i] = boxes_of(a.x, streamed_rows(call.rows));
  }
  (type == DType::f16 ? stream_f16 : stream_bf16)(call, ctas, stream_);
}

}  // namespace neox::cuda
