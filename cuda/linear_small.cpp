// SPDX-License-Identifier: Apache-2.0
#include "linear_small.h"

#include <cudaTypedefs.h>

#include <algorithm>
#include <climits>

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

SmallCall call_of(std::initializer_list<LinearArgs> parts, void* partial, unsigned* arrived) {
  SmallCall call{.rows = int(parts.begin()->x.rows), .partial = static_cast<float4*>(partial), .arrived = arrived};
  for (const LinearArgs& part : parts) call.parts[&part - parts.begin()] = part_of(part);
  const auto& [first, second] = call.parts;
  const auto tiles = [](const SmallPart& part) { return (part.n + kTileRows - 1) / kTileRows; };
  call.sum = parts.size() == 2 && first.out == second.out;
  call.tiles = tiles(first);
  call.per_tile = first.units + (call.sum ? second.units : 0);
  call.total = call.tiles * call.per_tile + (call.sum ? 0 : tiles(second) * second.units);
  return call;
}

/// Boxes of so many rows by 128 bytes of a matrix of 16-bit values, whose rows are swizzled as descriptor() has it; zeros past its ends.
/// The L2 cache reads 128 bytes at a time: with 256 weights come 5 to 9 % slower.
CUtensorMap boxes_of(const Tensor& t, int rows) {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result), "look for tensor maps");
    if (!found) fail(ErrorKind::runtime, "CUDA: the driver has no cuTensorMapEncodeTiled, which came with CUDA 12.0");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  const cuuint64_t size[] = {cuuint64_t(t.cols), cuuint64_t(t.rows)}, step[] = {cuuint64_t(t.ld) * 2};
  const cuuint32_t box[] = {64, cuuint32_t(rows)}, each[] = {1, 1};
  CUtensorMap map;
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, t.data, size, step, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail(ErrorKind::runtime, "CUDA: describe a matrix of ", t.rows, " x ", t.cols, ", rows ", t.ld, " apart: error ", int(result));
  return map;
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
  StreamCall call{call_of(parts, workspace_, arrived_)};
  constexpr int kLeast = 2;  // units of a share, where there are few
  const size_t partial = streams(type) ? kStreamPartial : kPartial;
  const int ctas = std::min({processors_, kMostCtas, int(workspace_bytes_ / partial), (call.total + kLeast - 1) / kLeast});
  if (!streams(type)) return (type == DType::f32 ? small_f32 : type == DType::f16 ? small_f16 : small_bf16)(call, ctas, stream_);
  for (const LinearArgs& a : parts) {
    const auto i = &a - parts.begin();
    call.w_boxes[i] = boxes_of(a.w.weight, kTileRows), call.x_boxes[i] = boxes_of(a.x, streamed_rows(call.rows));
  }
  (type == DType::f16 ? stream_f16 : stream_bf16)(call, ctas, stream_);
}

}  // namespace neox::cuda
