// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "base/check.h"
#include "cpu/kernels.h"
#include "model/quantization.h"
#include "neox/quantize.h"

namespace neox {

QuantizationError quantize(const std::string& mode, int32_t group, const std::string& dtype, const void* weight, int64_t rows, int64_t cols,
                           std::span<int8_t> q, std::span<float> scale) {
  const Format format = layer_format(mode, group);
  const DType type = dtype_named(dtype);
  require(rows >= 0 && cols > 0 && (format.group == 0 || cols % format.group == 0), "quantization ", mode, " has groups of ", format.group,
          " inputs, which do not divide ", cols);
  const int64_t width = format.group ? format.group : cols, groups = cols / width;
  require(int64_t(q.size()) == rows * cols && int64_t(scale.size()) == rows * groups, "q has ", q.size(), " elements and scale ",
          scale.size(), ", expected ", rows * cols, " and ", rows * groups);
  const Kernels* best = nullptr;
  for (const IsaEntry& entry : isa_table())
    if (entry.supported) best = entry.kernels;
  QuantizationError out;
  std::vector<float> row(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; r++) {
    best->widen(type, static_cast<const char*>(weight) + r * cols * int64_t(size_of(type)), row.data(), cols);
    int8_t* integers = q.data() + r * cols;
    float* scales = scale.data() + r * groups;
    best->quantize_row(row.data(), cols, format, integers, scales);
    for (int64_t c = 0; c < cols; c++) {
      const double w = row[size_t(c)], e = double(integers[c]) * double(scales[c / width]) - w;
      out.error += e * e, out.norm += w * w;
    }
  }
  return out;
}

}  // namespace neox
