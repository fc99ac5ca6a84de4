// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLASLt, and the table of its algorithms.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "backend/backend.h"
#include "base/gemm_config.h"
#include "base/tensor.h"
#include "check.h"

namespace neox::cuda {

constexpr size_t kWorkspaceBytes = size_t(32) << 20;

inline cudaDataType_t cuda_type(DType t) { return t == DType::f32 ? CUDA_R_32F : t == DType::f16 ? CUDA_R_16F : CUDA_R_16BF; }

class Gemm {
 public:
  /// one_a_matrix: a row of out is computed the same, to the bit, whatever the number of rows.
  enum class Plans { fastest, one_a_matrix };
  Gemm(cudaStream_t stream, void* workspace, Plans plans = Plans::fastest);  // workspace: [kWorkspaceBytes]
  ~Gemm();
  Gemm(const Gemm&) = delete;

  enum class Sum { fresh, added };             // out = ..., or out += ...
  enum class Epilogue { none, gelu_tanh };     // after the bias
  enum class Order { by_outputs, by_inputs };  // w is [N, K], or [K, N]
  struct Batch {                               // products side by side, this many elements apart
    int32_t count = 1;
    int64_t out = 0, x = 0, w = 0;
    auto operator<=>(const Batch&) const = default;
  };
  struct Call {
    Tensor out;        // [M, N]
    Tensor x;          // [M, K]
    Tensor w;          // [N, K] or [K, N], of x's type
    Tensor bias = {};  // [1, N] of out's type, or empty
    Sum sum = Sum::fresh;
    Epilogue epilogue = Epilogue::none;
    Order order = Order::by_outputs;
    Batch batch = {};
    float scale = 1;
  };
  /// out = epilogue(scale x w^T + bias), summed in f32 without TF32.
  void run(const Call& call);

  /// From now on products of one matrix by rows of x have their algorithms from here, where cuBLASLt accepts them for the very call.
  /// Not with one plan a matrix.
  void use(GemmConfig config);
  /// What the file says of such a product, or null.
  const GemmChoice* chosen(DType type, int64_t n, int64_t k, int64_t rows) const;
  /// Counts a product that was looked up.
  void count(DType type, int64_t n, int64_t k, int64_t rows, bool hit);
  GemmUse use_so_far() const { return {int32_t(config_.lines.size()), int32_t(hits_.size()), int32_t(misses_.size())}; }
  /// At most so many of cuBLASLt's own choices for a call, what it takes for the best first.
  std::vector<GemmChoice> propose(const Call& call, int most) const;

 private:
  struct Key {  // all that the choice of an algorithm depends on
    int64_t m, n, k, out_ld, x_ld, w_ld;
    uint32_t out_alignment, x_alignment, w_alignment;
    DType in, out;
    bool bias;
    Sum sum;
    Epilogue epilogue;
    Order order;
    Batch batch;
    auto operator<=>(const Key&) const = default;
  };
  struct Layouts {
    explicit Layouts(const Key& key);
    ~Layouts();
    Layouts(const Layouts&) = delete;
    cublasLtMatrixLayout_t w, x, out;
  };
  struct Plan {
    explicit Plan(const Key& key) : layouts(key) {}
    Layouts layouts;
    cublasLtMatmulAlgo_t algorithm = {};
    bool tuned = false;  // the algorithm is of the file
  };
  static Key key_of(const Call& call);
  void run_rows(const Call& call);
  Plan& plan_of(const Key& key, cublasLtMatmulDesc_t operation);
  void choose(const Key& key, cublasLtMatmulDesc_t operation, Plan& plan);
  std::vector<cublasLtMatmulAlgo_t> candidates(const Key& key, cublasLtMatmulDesc_t operation, int most) const;
  /// Bytes of workspace that the algorithm needs, or nothing where it does not hold for this product.
  std::optional<size_t> needs(const Key& key, cublasLtMatmulDesc_t operation, const cublasLtMatmulAlgo_t& algorithm) const;
  cublasLtMatmulAlgo_t choose_for_all_rows(const Key& key, cublasLtMatmulDesc_t operation) const;
  // gemm_choice.cpp
  static GemmChoice choice_of(const cublasLtMatmulAlgo_t& algorithm, size_t workspace);
  /// The algorithm of the file, or nothing where it has none that cuBLASLt accepts for this product.
  std::optional<cublasLtMatmulAlgo_t> tuned(const Key& key, cublasLtMatmulDesc_t operation);
  std::optional<cublasLtMatmulAlgo_t> make(const GemmChoice& choice, const Key& key, cublasLtMatmulDesc_t operation) const;

  const cudaStream_t stream_;
  void* const workspace_;
  const Plans kind_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
  GemmConfig config_;
  std::set<GemmKey> hits_, misses_;
};

}  // namespace neox::cuda
