// SPDX-License-Identifier: Apache-2.0
// Recorded steps: a CUDA graph of what the ops enqueue.
#include "cuda_backend.h"

namespace neox {
namespace {

class GraphReplay final : public Replay {
 public:
  GraphReplay(cudaGraph_t graph, cudaStream_t stream) : stream_(stream) {
    cuda::check(cudaGraphInstantiate(&executable_, graph, 0), "make a recorded step");
  }
  ~GraphReplay() override { cudaGraphExecDestroy(executable_); }
  GraphReplay(const GraphReplay&) = delete;
  void run() override { cuda::check(cudaGraphLaunch(executable_, stream_), "run a recorded step"); }

 private:
  const cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

/// The stream captures for as long as this lives, so that an exception leaves it as it was.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin to record");
  }
  ~Capture() {
    if (!ended_) cudaStreamEndCapture(stream_, &graph_);
    if (graph_) cudaGraphDestroy(graph_);
  }
  Capture(const Capture&) = delete;
  cudaGraph_t end() {
    ended_ = true;
    cuda::check(cudaStreamEndCapture(stream_, &graph_), "end to record");
    return graph_;
  }

 private:
  const cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<Replay> CudaBackend::record(const std::function<void()>& body) {
  Capture capture(stream_);
  body();
  return std::make_unique<GraphReplay>(capture.end(), stream_);
}

}  // namespace neox
