// SPDX-License-Identifier: Apache-2.0
// cuBLASLt is column-major: a row-major [rows, cols] is its [cols, rows]. So out^T [N, M] = w [N, K] (transposed by it) times x^T [K, M].
#include "gemm.h"

#include <algorithm>

namespace neox::cuda {
namespace {

uint32_t alignment_of(const Tensor& t, int64_t step) {  // step: elements to the next product's
  const auto address = reinterpret_cast<uintptr_t>(t.data) | uintptr_t(step) * size_of(t.dtype) | 256;
  return uint32_t(address & -address);
}

cublasLtMatrixLayout_t layout(DType type, int64_t rows, int64_t cols, int64_t ld, int32_t count, int64_t step) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, cuda_type(type), uint64_t(cols), uint64_t(rows), ld), "describe a matrix");
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
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(call.bias.dtype));
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

// With one plan a matrix: the rows it is chosen for, and those of one product at most, which bound the room for sums of parts of K.
constexpr int64_t kPlannedRows = 64, kRowsAtOnce = 256;

Gemm::Gemm(cudaStream_t stream, void* workspace, Plans plans) : stream_(stream), workspace_(workspace), kind_(plans) {
  check(cublasLtCreate(&handle_), "start");
}

Gemm::~Gemm() { cublasLtDestroy(handle_); }

Gemm::Layouts::Layouts(const Key& k)
    : w(k.order == Order::by_outputs ? layout(k.in, k.n, k.k, k.w_ld, k.batch.count, k.batch.w)
                                     : layout(k.in, k.k, k.n, k.w_ld, k.batch.count, k.batch.w)),
      x(layout(k.in, k.m, k.k, k.x_ld, k.batch.count, k.batch.x)), out(layout(k.out, k.m, k.n, k.out_ld, k.batch.count, k.batch.out)) {}

Gemm::Layouts::~Layouts() {
  for (cublasLtMatrixLayout_t matrix : {w, x, out}) cublasLtMatrixLayoutDestroy(matrix);
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

/// What cuBLASLt's heuristic takes to be the fastest, best first; at least one.
std::vector<cublasLtMatmulAlgo_t> Gemm::candidates(const Key& k, cublasLtMatmulDesc_t operation, int most) const {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "prepare a choice");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)), "prepare a choice");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(kWorkspaceBytes));
  // Sums of parts of K that lie apart are added in order; sums in place are added as they come.
  if (kind_ == Plans::one_a_matrix) set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, k.w_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, k.x_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, k.out_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, k.out_alignment);
  const Layouts l(k);
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(most));
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, operation, l.w, l.x, l.out, l.out, preference, most, found.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0)
    fail(ErrorKind::unsupported, "cuBLASLt has no product of ", k.m, " rows, ", k.k, " inputs and ", k.n, " outputs, ",
         cublasLtGetStatusString(status));
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; i++) algorithms.push_back(found[size_t(i)].algo);
  return algorithms;
}

std::optional<size_t> Gemm::needs(const Key& k, cublasLtMatmulDesc_t operation, const cublasLtMatmulAlgo_t& algorithm) const {
  const Layouts l(k);
  cublasLtMatmulHeuristicResult_t result{};
  const bool holds = cublasLtMatmulAlgoCheck(handle_, operation, l.w, l.x, l.out, l.out, &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
                     result.workspaceSize <= kWorkspaceBytes;
  return holds ? std::optional(result.workspaceSize) : std::nullopt;
}

/// The best for kPlannedRows of those that hold for every number of rows up to kRowsAtOnce.
cublasLtMatmulAlgo_t Gemm::choose_for_all_rows(const Key& key, cublasLtMatmulDesc_t operation) const {
  Key k = key;
  for (const int64_t planned : {kPlannedRows, int64_t(1), kRowsAtOnce}) {  // the last two: what is tiny has plans of its own
    k.m = planned;
    for (const cublasLtMatmulAlgo_t& algorithm : candidates(k, operation, 32)) {
      const auto good = [&](int64_t rows) { return k.m = rows, needs(k, operation, algorithm).has_value(); };
      if (good(1) && good(2) && good(kPlannedRows) && good(kRowsAtOnce)) return algorithm;
    }
  }
  fail(ErrorKind::unsupported, "cuBLASLt has no plan for 1 to ", kRowsAtOnce, " rows of ", k.k, " inputs and ", k.n,
       " outputs, which deterministic asks for");
}

void Gemm::choose(const Key& k, cublasLtMatmulDesc_t operation, Plan& plan) {
  if (kind_ == Plans::one_a_matrix) {
    plan.algorithm = choose_for_all_rows(k, operation);
    return;
  }
  const auto algorithm = tuned(k, operation);
  plan.algorithm = algorithm ? *algorithm : candidates(k, operation, 1)[0];
  plan.tuned = algorithm.has_value();
}

Gemm::Plan& Gemm::plan_of(const Key& k, cublasLtMatmulDesc_t operation) {
  const auto [place, fresh] = plans_.try_emplace(k, k);
  Plan& plan = place->second;
  if (!fresh) return plan;
  try {
    choose(k, operation, plan);
  } catch (...) {
    plans_.erase(place);
    throw;
  }
  return plan;
}

void Gemm::run(const Call& c) {
  if (kind_ == Plans::fastest) return run_rows(c);
  for (int64_t row = 0; row < c.x.rows; row += kRowsAtOnce) {
    Call some = c;
    some.x = c.x.from(row).first(std::min(kRowsAtOnce, c.x.rows - row));
    some.out = c.out.from(row).first(some.x.rows);
    run_rows(some);
  }
}

void Gemm::run_rows(const Call& c) {
  Operation operation(c);
  const Key key = key_of(c);
  Plan& plan = plan_of(key, operation.get());
  const Layouts& l = plan.layouts;
  const float alpha = c.scale, beta = c.sum == Sum::added ? 1 : 0;
  const auto multiply = [&] {
    return cublasLtMatmul(handle_, operation.get(), &alpha, c.w.data, l.w, c.x.data, l.x, &beta, c.out.data, l.out, c.out.data, l.out,
                          &plan.algorithm, workspace_, kWorkspaceBytes, stream_);
  };
  cublasStatus_t status = multiply();
  if (status != CUBLAS_STATUS_SUCCESS && plan.tuned) {  // accepted, but refused when it came to it, with nothing launched
    plan.algorithm = candidates(key, operation.get(), 1)[0], plan.tuned = false;
    count(key.in, key.n, key.k, key.m, false);
    status = multiply();
  }
  check(status, "multiply");
}

std::vector<GemmChoice> Gemm::propose(const Call& call, int most) const {
  Operation operation(call);
  const Key key = key_of(call);
  std::vector<GemmChoice> choices;
  for (const cublasLtMatmulAlgo_t& algorithm : candidates(key, operation.get(), most))
    if (const auto workspace = needs(key, operation.get(), algorithm)) choices.push_back(choice_of(algorithm, *workspace));
  return choices;
}

}  // namespace neox::cuda
