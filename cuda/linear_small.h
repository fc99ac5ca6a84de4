// SPDX-License-Identifier: Apache-2.0
// linear for few rows, where reading the weights is all that counts: one launch for a whole call, of one part or two.
#pragma once
#include <cuda.h>

#include <initializer_list>

#include "backend/args.h"
#include "check.h"

namespace neox::cuda {

/// One product out = act(x w^T + bias), as the kernels get it.
struct SmallPart {
  const char *w = nullptr, *x = nullptr;   // [n, inputs], [rows, inputs], of one type
  void* out = nullptr;                     // [rows, n]
  const void* bias = nullptr;              // [n] or null
  int64_t w_ld = 0, x_ld = 0, out_ld = 0;  // bytes, bytes, elements
  int n = 0, vectors = 0, units = 0;       // inputs as vectors of 16 bytes, and as units
  DType out_type = DType::f32, bias_type = DType::f32;
  Act act = Act::none;
};
struct SmallCall {
  SmallPart parts[2];
  bool sum;  // both parts into the first one's out
  int rows;
  int tiles, per_tile;  // of the first out: tiles, and units of a tile (both parts' of a sum)
  int total;            // units of all tiles
  float4* partial;      // sums of cut tiles: small_kernel [CTAs][2][sums of a thread / 4][threads], stream_kernel [CTAs] of that
  unsigned* arrived;    // [CTAs][warps] how many of a cut tile's partial sums are there; 0 between calls
};
/// For stream_kernel (linear_stream.cuh).
struct StreamCall : SmallCall {
  bool grouped;  // w by [64 inputs, 8 rows, inputs / 64, rows / 8], boxes of whole units; else by [inputs, rows], boxes of half units
  CUtensorMap w_boxes[2], x_boxes[2];  // x by [inputs, rows]
};

constexpr int kTileRows = 128;                         // of w
constexpr int kSmallVectors = 8, kStreamVectors = 16;  // of 16 bytes, in a unit's row
constexpr int kMostStreamed = 64;                      // rows of x
/// Rows of x that stream_kernel takes for so many.
constexpr int streamed_rows(int rows) { return rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64; }

void small_f32(const SmallCall& call, int ctas, const Stream& stream);
void small_f16(const SmallCall& call, int ctas, const Stream& stream);
void small_bf16(const SmallCall& call, int ctas, const Stream& stream);
void stream_f16(const StreamCall& call, int ctas, const Stream& stream);
void stream_bf16(const StreamCall& call, int ctas, const Stream& stream);

class SmallLinear {
 public:
  SmallLinear(const Stream& stream, void* workspace, size_t workspace_bytes);
  ~SmallLinear();
  SmallLinear(const SmallLinear&) = delete;

  /// Whether it takes these parts: few rows, that begin at multiples of 16 bytes and are whole vectors of 16 bytes.
  bool takes(std::initializer_list<LinearArgs> parts) const;
  void run(std::initializer_list<LinearArgs> parts) const;

 private:
  bool streams(DType type) const { return streams_ && type != DType::f32; }

  const Stream stream_;
  void* const workspace_;
  const size_t workspace_bytes_;
  const bool streams_;
  unsigned* arrived_ = nullptr;
  int processors_ = 0;
};

}  // namespace neox::cuda
