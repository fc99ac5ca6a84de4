// SPDX-License-Identifier: Apache-2.0
// linear for few rows, where reading the weights is all that counts: one launch for a whole call, of one part or two.
#pragma once
#include <initializer_list>

#include "backend/args.h"
#include "check.h"

namespace neox::cuda {

/// One product out = act(x w^T + bias), as the kernel gets it.
struct SmallPart {
  const char *w = nullptr, *x = nullptr;   // [n, inputs], [rows, inputs], of one type
  void* out = nullptr;                     // [rows, n]
  const void* bias = nullptr;              // [n] or null
  int64_t w_ld = 0, x_ld = 0, out_ld = 0;  // bytes, bytes, elements
  int n = 0, vectors = 0, units = 0;       // inputs as vectors of 16 bytes, as units of 8 vectors
  DType out_type = DType::f32, bias_type = DType::f32;
  Act act = Act::none;
};
struct SmallCall {
  SmallPart parts[2];
  bool sum;             // both parts into the first one's out
  int rows, stages;     // stages: of the ring
  int tiles, per_tile;  // of the first out: tiles, and units of a tile (both parts' of a sum)
  int total;            // units of all tiles
  float4* partial;      // [CTAs][2][sums of a thread / 4][threads] sums of cut tiles
  unsigned* arrived;    // [CTAs][warps] how many of a cut tile's partial sums are there; 0 between calls
};
void small_f32(SmallCall& call, int ctas, const Stream& stream);
void small_f16(SmallCall& call, int ctas, const Stream& stream);
void small_bf16(SmallCall& call, int ctas, const Stream& stream);

class SmallLinear {
 public:
  SmallLinear(const Stream& stream, void* workspace, size_t workspace_bytes);
  ~SmallLinear();
  SmallLinear(const SmallLinear&) = delete;

  /// Up to 8 rows (16 of f32) that begin at multiples of 16 bytes and are whole vectors of 16 bytes: cuBLASLt is the faster one from 16
  /// rows on.
  static bool takes(std::initializer_list<LinearArgs> parts);
  void run(std::initializer_list<LinearArgs> parts) const;

 private:
  const Stream stream_;
  void* const workspace_;
  const size_t workspace_bytes_;
  unsigned* arrived_ = nullptr;
  int processors_ = 0;
};

}  // namespace neox::cuda
