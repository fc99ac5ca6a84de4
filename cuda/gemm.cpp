// SPDX-License-Identifier: Apache-2.0
// cuBLASLt is column-major: a row-major [rows, cols] is its [cols, rows]. So out^T [N, M] = w [N, K] (transposed by it) times x^T [K, M].
#include "gemm.h"

#include <algorithm>

namespace neox::cuda {
namespace {

cudaDataType_t type_of(DType t) { return t == DType::f32 ? CUDA_R_32F : t == DType::f16 ? CUDA_R_16F : CUDA_R_16BF; }

uint32_t alignment_of(const Tensor& t, int64_t step) {  // step: elements to the next product's
  const auto address = reinterpret_cast<uintptr_t>(t.data) | uintptr_t(step) * size_of(t.dtype) | 256;
  return uint32_t(address & -address);
}

cublasLtMatrixLayout_t layout(DType type, int64_t rows, int64_t cols, int64_t ld, int32_t count, int64_t step) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, type_of(type), uint64_t(cols), uint64_t(rows), ld), "describe a matrix");
  check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)), "describe a matrix");
  check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof(step)), "describe a matrix");
  return made;
}

/// What cuBLASLt is to compute, for the time of one call.
class Operation {
 public:
  explicit Operation(const Gemm::Call& call) {
    check(cublasLtMatmulDescInit(&description_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product");
    set(CUBLASLT_MATMUL_DESC_TRANSA, call.order == Gemm::Order::by_outputs ? CUBLAS_OP_T : CUBLAS_OP_N);
    const bool gelu = call.epilogue == Gemm::Epilogue::gelu_tanh;
    if (call.bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias.data);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(call.bias.dtype));
    } else if (gelu) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_GELU);
    }
  }
  cublasLtMatmulDesc_t get() { return &description_; }

 private:
  template <class T> void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(cublasLtMatmulDescSetAttribute(&description_, attribute, &value, sizeof(value)), "describe a product");
  }
  cublasLtMatmulDescOpaque_t description_;
};

}  // namespace

Gemm::Gemm(cudaStream_t stream, void* workspace) : stream_(stream), workspace_(workspace) { check(cublasLtCreate(&handle_), "start"); }

Gemm::~Gemm() {
  for (const auto& [key, plan] : plans_)
    for (cublasLtMatrixLayout_t matrix : {plan.w, plan.x, plan.out}) cublasLtMatrixLayoutDestroy(matrix);
  cublasLtDestroy(handle_);
}

Gemm::Key Gemm::key_of(const Call& c) {
  return {.m = c.x.rows,
          .n = c.out.cols,
          .k = c.x.cols,
          .out_ld = c.out.ld,
          .x_ld = c.x.ld,
          .w_ld = c.w.ld,
          .out_alignment = alignment_of(c.out, c.batch.out),
          .x_alignment = alignment_of(c.x, c.batch.x),
          .w_alignment = alignment_of(c.w, c.batch.w),
          .in = c.x.dtype,
          .out = c.out.dtype,
          .bias = bool(c.bias),
          .sum = c.sum,
          .epilogue = c.epilogue,
          .order = c.order,
          .batch = c.batch};
}

cublasLtMatmulAlgo_t Gemm::choose(const Key& k, cublasLtMatmulDesc_t operation, const Plan& p) const {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "prepare a choice");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)), "prepare a choice");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(kWorkspaceBytes));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, k.w_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, k.x_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, k.out_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, k.out_alignment);
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, operation, p.w, p.x, p.out, p.out, preference, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0)
    fail(ErrorKind::unsupported, "cuBLASLt has no product of ", k.m, " rows, ", k.k, " inputs and ", k.n, " outputs, ",
         cublasLtGetStatusString(status));
  return found.algo;
}

const Gemm::Plan& Gemm::plan_of(const Key& k, cublasLtMatmulDesc_t operation) {
  if (const auto known = plans_.find(k); known != plans_.end()) return known->second;
  const auto& [count, out_step, x_step, w_step] = k.batch;
  const bool by_outputs = k.order == Order::by_outputs;
  Plan plan{.w = layout(k.in, by_outputs ? k.n : k.k, by_outputs ? k.k : k.n, k.w_ld, count, w_step),
            .x = layout(k.in, k.m, k.k, k.x_ld, count, x_step),
            .out = layout(k.out, k.m, k.n, k.out_ld, count, out_step)};
  plan.algorithm = choose(k, operation, plan);
  return plans_.emplace(k, plan).first->second;
}

void Gemm::run(const Call& c) {
  Operation operation(c);
  const Plan& plan = plan_of(key_of(c), operation.get());
  const float alpha = c.scale, beta = c.sum == Sum::added ? 1 : 0;
  check(cublasLtMatmul(handle_, operation.get(), &alpha, c.w.data, plan.w, c.x.data, plan.x, &beta, c.out.data, plan.out, c.out.data,
                       plan.out, &plan.algorithm, workspace_, kWorkspaceBytes, stream_),
        "multiply");
}

}  // namespace neox::cuda
