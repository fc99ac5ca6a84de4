// SPDX-License-Identifier: Apache-2.0
// cuBLASLt's algorithms by their attributes, as gemm_config.in has them.
#include "gemm.h"

namespace neox::cuda {
namespace {

constexpr struct {
  cublasLtMatmulAlgoConfigAttributes_t name;
  int32_t GemmChoice::*value;
  size_t bytes;
} kAttributes[] = {{CUBLASLT_ALGO_CONFIG_TILE_ID, &GemmChoice::tile, 4},
                   {CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &GemmChoice::split_k, 4},
                   {CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &GemmChoice::reduction, 4},
                   {CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, &GemmChoice::swizzle, 4},
                   {CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &GemmChoice::custom_option, 4},
                   {CUBLASLT_ALGO_CONFIG_STAGES_ID, &GemmChoice::stages, 4},
                   {CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, &GemmChoice::inner_shape, 2},
                   {CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &GemmChoice::cluster_shape, 2}};

/// An attribute that an algorithm does not have is -1.
int32_t attribute_of(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t name, size_t bytes) {
  int32_t wide = 0;
  uint16_t narrow = 0;
  void* const to = bytes == 2 ? static_cast<void*>(&narrow) : &wide;
  size_t written = 0;
  if (cublasLtMatmulAlgoConfigGetAttribute(&algorithm, name, to, bytes, &written) != CUBLAS_STATUS_SUCCESS) return -1;
  return bytes == 2 ? narrow : wide;
}

bool set_attribute(cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t name, size_t bytes, int32_t value) {
  if (value == -1) return true;
  if (value < 0 || (bytes == 2 && value > UINT16_MAX)) return false;
  const auto narrow = uint16_t(value);
  const void* const from = bytes == 2 ? static_cast<const void*>(&narrow) : &value;
  return cublasLtMatmulAlgoConfigSetAttribute(&algorithm, name, from, bytes) == CUBLAS_STATUS_SUCCESS;
}

bool aligned(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoCapAttributes_t which, uint32_t alignment) {
  uint32_t needed = 0;
  size_t written = 0;
  return cublasLtMatmulAlgoCapGetAttribute(&algorithm, which, &needed, sizeof needed, &written) == CUBLAS_STATUS_SUCCESS &&
         needed <= alignment;
}

GemmKey line_key(DType type, int64_t n, int64_t k, int64_t rows) {
  return {.type = type, .n = int32_t(n), .k = int32_t(k), .rows = int32_t(rows)};
}

}  // namespace

void Gemm::use(GemmConfig config) {
  config_ = std::move(config);
  hits_.clear(), misses_.clear(), plans_.clear();
}

const GemmChoice* Gemm::chosen(DType type, int64_t n, int64_t k, int64_t rows) const {
  const GemmLine* line = config_.find(type, n, k, rows);
  return line ? &line->choice : nullptr;
}

void Gemm::count(DType type, int64_t n, int64_t k, int64_t rows, bool hit) {
  if (config_.lines.empty()) return;
  const GemmKey key = line_key(type, n, k, rows);
  (hit ? hits_ : misses_).insert(key);
  if (!hit) hits_.erase(key);
}

std::optional<cublasLtMatmulAlgo_t> Gemm::make(const GemmChoice& c, const Key& k, cublasLtMatmulDesc_t operation) const {
  constexpr int64_t kLeastPart = 16;  // inputs; cuBLASLt's check accepts 4097 parts of 1024, with which a product does not end
  if (c.split_k > 1 && k.k / c.split_k < kLeastPart) return {};
  const cudaDataType_t in = cuda_type(k.in), out = cuda_type(k.out);
  cublasLtMatmulAlgo_t algorithm;
  if (cublasLtMatmulAlgoInit(handle_, CUBLAS_COMPUTE_32F, CUDA_R_32F, in, in, out, out, c.algorithm, &algorithm) != CUBLAS_STATUS_SUCCESS)
    return {};
  for (const auto& [name, value, bytes] : kAttributes)
    if (!set_attribute(algorithm, name, bytes, c.*value)) return {};
  const bool fits = needs(k, operation, algorithm) && aligned(algorithm, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_A_BYTES, k.w_alignment) &&
                    aligned(algorithm, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_B_BYTES, k.x_alignment) &&
                    aligned(algorithm, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_C_BYTES, k.out_alignment) &&
                    aligned(algorithm, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_D_BYTES, k.out_alignment);
  return fits ? std::optional(algorithm) : std::nullopt;
}

std::optional<cublasLtMatmulAlgo_t> Gemm::tuned(const Key& k, cublasLtMatmulDesc_t operation) {
  if (k.batch.count > 1 || k.order != Order::by_outputs) return {};
  const GemmChoice* choice = chosen(k.in, k.n, k.k, k.m);
  std::optional<cublasLtMatmulAlgo_t> made;
  if (choice && choice->algorithm >= 0) made = make(*choice, k, operation);
  count(k.in, k.n, k.k, k.m, made || (choice && choice->algorithm == GemmChoice::kDefault));
  return made;
}

GemmChoice Gemm::choice_of(const cublasLtMatmulAlgo_t& algorithm, size_t workspace) {
  GemmChoice c{.algorithm = attribute_of(algorithm, CUBLASLT_ALGO_CONFIG_ID, 4), .workspace = int32_t(workspace)};
  for (const auto& [name, value, bytes] : kAttributes) c.*value = attribute_of(algorithm, name, bytes);
  return c;
}

}  // namespace neox::cuda
