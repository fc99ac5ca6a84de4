// SPDX-License-Identifier: Apache-2.0
// Tensors as copies of boxes (hopper.cuh) see them.
#pragma once
#include <cudaTypedefs.h>

#include <algorithm>

#include "check.h"

namespace neox::cuda {

/// Boxes of 16-bit values, with zeros past the ends. Their rows are of 64 or 128 bytes, swizzled as wide as they are. steps: elements
/// between neighbours, from the second coordinate on. The L2 cache reads 128 bytes at a time: with 256 weights come 5 to 9 % slower.
template <size_t rank>
CUtensorMap boxes(void* data, const cuuint64_t (&sizes)[rank], const cuuint64_t (&steps)[rank - 1], const cuuint32_t (&box)[rank]) {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result), "look for tensor maps");
    if (!found) fail(ErrorKind::runtime, "CUDA: the driver has no cuTensorMapEncodeTiled, which came with CUDA 12.0");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  cuuint64_t bytes[rank - 1];
  cuuint32_t each[rank];
  std::transform(std::begin(steps), std::end(steps), bytes, [](cuuint64_t step) { return step * 2; });
  std::fill_n(each, rank, 1);
  CUtensorMap map;
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, rank, data, sizes, bytes, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 box[0] == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail(ErrorKind::runtime, "CUDA: describe a tensor whose fastest coordinates are of ", sizes[0], " and ", sizes[1], ", ", steps[0],
         " elements apart: error ", int(result));
  return map;
}

}  // namespace neox::cuda
