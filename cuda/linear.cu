// SPDX-License-Identifier: Apache-2.0
// linear: out = act(x W^T + bias), one or two parts.
//   x [tokens, inputs] A, W [outputs, inputs] A, bias [1, outputs], out [tokens, outputs] A or f32; A: the activation type.
// Few rows: linear_stream.cuh, or linear_small.cuh. Else the product is cuBLASLt's. What its epilogues do not do as we define it, a pass
// over out does afterwards: activations other than tanh-GELU (its ReLU hides NaN), tanh-GELU of f32 (its own is approximate), a bias of
// another type than out. Floor: W and x read once, out written once; the pass afterwards reads and writes out once more.
#include "activate.cuh"
#include "cuda_backend.h"
#include "device.cuh"
#include "linear.h"
#include "types.cuh"

namespace neox {
namespace cuda {
namespace {

constexpr int kThreads = 256;

/// One thread an element. bias may be null.
template <class Out, class Bias>
__global__ __launch_bounds__(kThreads) void finish_kernel(Out* out, int64_t ld, int64_t cols, const Bias* bias, Act act) {
  grid_launch();
  grid_wait();
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= cols) return;
  Out& y = out[blockIdx.y * ld + c];
  y = narrow<Out>(activate(act, widen(y) + (bias ? widen(bias[c]) : 0.f)));
}

void finish(const Tensor& out, const Tensor& bias, Act act, const Stream& stream) {
  constexpr int64_t kMostRows = 65535;  // of a grid
  for (int64_t row = 0; row < out.rows; row += kMostRows) {
    const Launch l{.name = "linear, bias and activation",
                   .grid = dim3(unsigned((out.cols + kThreads - 1) / kThreads), unsigned(std::min(kMostRows, out.rows - row))),
                   .block = kThreads,
                   .stream = stream};
    dispatch(out.dtype, [&](auto o) {
      dispatch(bias.dtype, [&](auto b) {
        using Out = Element<o>;
        using Bias = Element<b>;
        launch(l, finish_kernel<Out, Bias>, out.row<Out>(row), out.ld, out.cols, static_cast<const Bias*>(bias.data), act);
      });
    });
  }
}

}  // namespace

LibraryPart library_part(const LinearArgs& a, Gemm::Sum sum) {
  require(sum == Gemm::Sum::fresh || a.act == Act::none, "linear: a part that is added to another cannot have an activation");
  LibraryPart part{.call = {.out = a.out, .x = a.x, .w = a.w.weight, .sum = sum}, .bias = a.w.bias, .act = a.act};
  if (part.act == Act::gelu_tanh && a.out.dtype != DType::f32 && (!part.bias || part.bias.dtype == a.out.dtype))
    part.call.epilogue = Gemm::Epilogue::gelu_tanh, part.act = Act::none;
  if (part.bias && part.bias.dtype == a.out.dtype) std::swap(part.call.bias, part.bias);
  return part;
}

void library_linear(std::initializer_list<LinearArgs> parts, Gemm& gemm, const Stream& stream) {
  for (const LinearArgs& a : parts) {
    if (a.out.rows == 0) continue;
    const bool added = &a != parts.begin() && a.out.data == parts.begin()->out.data;
    const LibraryPart part = library_part(a, added ? Gemm::Sum::added : Gemm::Sum::fresh);
    gemm.run(part.call);
    if (part.bias || part.act != Act::none) finish(a.out, part.bias, part.act, stream);
  }
}

}  // namespace cuda

/// Whether the kernel for few rows, which takes these parts, is to run them: unless gemm_config gives one of them to cuBLASLt.
bool CudaBackend::own_is_chosen(std::initializer_list<LinearArgs> parts) {
  for (const LinearArgs& a : parts) {
    const GemmChoice* choice = gemm_->chosen(a.x.dtype, a.out.cols, a.x.cols, a.x.rows);
    if (choice && choice->algorithm != GemmChoice::kOwn) return false;
    gemm_->count(a.x.dtype, a.out.cols, a.x.cols, a.x.rows, choice != nullptr);
  }
  return true;
}

void CudaBackend::linear(std::initializer_list<LinearArgs> parts) {
  if (!deterministic_ && small_linear_->takes(parts) && own_is_chosen(parts)) small_linear_->run(parts);
  else cuda::library_linear(parts, *gemm_, stream_);
}

}  // namespace neox
