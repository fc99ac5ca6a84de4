// SPDX-License-Identifier: Apache-2.0
// Weights in the layout of kernels.h, panel by panel: from numbers of any type, or from integers as a file holds them.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "cpu/cpu_backend_impl.h"

namespace neox {
namespace {

/// One panel of 16 outputs from row p * 16 of w on; see kernels.h for the layout.
template <DType From, DType To> void pack_panel(const Tensor& w, int64_t p, char* panel) {
  constexpr int64_t kPair = To == DType::bf16 ? 2 : 1;  // k side by side in a lane
  std::memset(panel, 0, panel_bytes(w.cols, To));
  for (int64_t lane = 0; lane < std::min<int64_t>(kLanes, w.rows - p * kLanes); lane++) {
    const void* row = w.from(p * kLanes + lane).data;
    for (int64_t k = 0; k < w.cols; k++)
      store_from_f32<To>(panel, k / kPair * kPair * kLanes + lane * kPair + k % kPair, load_as_f32<From>(row, k));
  }
}

struct IntegerRow {
  std::vector<float> wide;   // [K] what is quantised
  std::vector<int8_t> q;     // [K]
  std::vector<float> scale;  // [1], or [K / group]
};

/// Row 0 of integers of a file.
void read_row(const Tensor& w, IntegerRow& out) {
  for (size_t g = 0; g < out.scale.size(); g++) out.scale[g] = load_as_f32(w.scale, w.scale_dtype, int64_t(g));
  const auto* bytes = static_cast<const uint8_t*>(w.data);
  if (w.dtype == DType::i8) std::memcpy(out.q.data(), bytes, out.q.size());
  else
    for (size_t k = 0; k < out.q.size(); k++) out.q[k] = int8_t((bytes[k / 2] >> k % 2 * 4 & 15) - 8);
}

void store_row(const IntegerRow& row, Format f, int64_t lane, char* panel) {
  for (size_t g = 0; g < row.scale.size(); g++)
    store_from_f32(panel, is_grouped(f.dtype) ? DType::f16 : DType::f32, int64_t(g) * kLanes + lane, row.scale[g]);
  const auto K = int64_t(row.q.size());
  auto* at = reinterpret_cast<uint8_t*>(panel) + scale_bytes(K, f);
  if (f.dtype == DType::i8)
    for (int64_t k = 0; k < K; k++) at[k * kLanes + lane] = uint8_t(row.q[size_t(k)]);
  else if (f.dtype == DType::w8a8)
    for (int64_t k = 0; k < K; k++) at[k / 4 * 64 + lane * 4 + k % 4] = uint8_t(row.q[size_t(k)] + 128);
  else
    for (int64_t k = 0; k < K; k += 8)
      for (int64_t b = 0; b < 4; b++)
        at[k / 8 * 64 + lane * 4 + b] = uint8_t((row.q[size_t(k + b)] + 8) | (row.q[size_t(k + b + 4)] + 8) << 4);
}

void pack_integers(const Kernels& kernels, const Tensor& w, int64_t p, Format f, IntegerRow& row, char* panel) {
  std::memset(panel, 0, panel_bytes(w.cols, f));
  for (int64_t lane = 0; lane < std::min<int64_t>(kLanes, w.rows - p * kLanes); lane++) {
    const Tensor from = w.from(p * kLanes + lane);
    if (is_float(w.dtype)) {
      kernels.widen(w.dtype, from.data, row.wide.data(), w.cols);
      kernels.quantize_row(row.wide.data(), w.cols, f, row.q.data(), row.scale.data());
    } else {
      read_row(from, row);
    }
    store_row(row, f, lane, panel);
  }
}

}  // namespace

size_t CpuBackend::packed_bytes(int64_t outputs, int64_t inputs, Format format) const {
  return panels_of(outputs) * panel_bytes(inputs, format);
}

Tensor CpuBackend::pack(void* to, const Tensor& w, Format f) {
  assert(is_float(w.dtype) || (w.dtype == stored_as(f.dtype) && w.group == f.group));
  assert(f.group == 0 || w.cols % f.group == 0);
  pool_.split(panels_of(w.rows), [&](int64_t begin, int64_t end) {
    const auto panel = [&](int64_t p) { return static_cast<char*>(to) + p * panel_bytes(w.cols, f); };
    if (is_float(f.dtype)) {
      dispatch(w.dtype, [&](auto from) {
        dispatch(f.dtype, [&](auto target) {
          for (int64_t p = begin; p < end; p++) pack_panel<from, target>(w, p, panel(p));
        });
      });
      return;
    }
    const auto K = size_t(w.cols);
    IntegerRow row{std::vector<float>(K), std::vector<int8_t>(K), std::vector<float>(f.group ? K / size_t(f.group) : 1)};
    for (int64_t p = begin; p < end; p++) pack_integers(kernels_, w, p, f, row, panel(p));
  });
  return {.data = to, .rows = w.rows, .cols = w.cols, .ld = w.cols, .dtype = f.dtype, .group = f.group};
}

Tensor CpuBackend::pack_random(void* to, int64_t outputs, int64_t inputs, const RandomFill& values, Format f) {
  std::vector<float> made(size_t(outputs * inputs));
  pool_.split(outputs, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const int64_t row = values.first + r * values.row;  // of the whole's elements
      for (int64_t block = row / 4; block * 4 < row + inputs; block++) {
        const std::array<float, 4> four = random_values(values, block);
        for (int64_t i = std::max(block * 4, row); i < std::min(block * 4 + 4, row + inputs); i++)
          made[size_t(r * inputs + i - row)] = four[size_t(i % 4)];
      }
    }
  });
  return pack(to, {.data = made.data(), .rows = outputs, .cols = inputs, .ld = inputs, .dtype = DType::f32}, f);
}

}  // namespace neox
