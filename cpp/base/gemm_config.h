// SPDX-License-Identifier: Apache-2.0
// gemm_config.in: the algorithm that each matrix product takes on one machine, as gpt_gemm measured them. Lines have FasterTransformer's
// columns, those of its builds that have clusters. The first line, which FasterTransformer skips, also tells where the file was made, and a
// digest of the lines, so that a file that was cut short or edited is known.
#pragma once
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/dtype.h"
#include "neox/error.h"

namespace neox {

/// Where choices hold. No part has a ';' or a line's end.
struct GemmPlace {
  std::string gpu, driver, cublaslt;  // "NVIDIA H200, 132 SMs", "580.159.04", "130100"
  bool operator==(const GemmPlace&) const = default;
};

/// An algorithm of cuBLASLt by its attributes; or its own choice for the rows at hand, or this engine's kernel, with all others -1.
struct GemmChoice {
  static constexpr int32_t kDefault = -1, kOwn = -2;
  int32_t algorithm = kDefault, custom_option = -1, tile = -1, split_k = -1, swizzle = -1, reduction = -1, workspace = -1, stages = -1;
  int32_t inner_shape = -1, cluster_shape = -1;
  bool operator==(const GemmChoice&) const = default;
};

struct GemmKey {
  DType type;  // of x and w; FasterTransformer's data_type: 0 = fp32, 1 = fp16, 2 = bf16
  int32_t n, k, rows;
  auto operator<=>(const GemmKey&) const = default;
};
struct GemmLine {
  int32_t batch = 0, length = 0, heads = 0, head_dim = 0;  // gpt_gemm's arguments, for people; batch: times beams, length: 1 in decode
  GemmChoice choice;
  double milliseconds = 0;
};

struct NEOX_API GemmConfig {
  GemmPlace place;
  std::map<GemmKey, GemmLine> lines;

  /// Throws Error(invalid) naming `name` and what is wrong. Of two lines for the same product and rows the later one counts.
  static GemmConfig parse(std::string_view text, const std::string& name);
  static GemmConfig read(const std::string& path);  // also throws Error(not_found)
  std::string text() const;

  /// Throws Error(invalid) unless the file was made here.
  void require_place(const GemmPlace& here, const std::string& name) const;
  /// The line for the fewest rows that are at least `rows`, or null.
  const GemmLine* find(DType type, int64_t n, int64_t k, int64_t rows) const;
};

}  // namespace neox
