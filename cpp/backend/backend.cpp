// SPDX-License-Identifier: Apache-2.0
#include "backend/backend.h"

#include "backend/tune.h"
#include "base/check.h"
#include "base/plugin.h"
#include "cpu/cpu_backend.h"
#include "neox/engine.h"

namespace neox {

Backend::~Backend() = default;
Replay::~Replay() = default;

static std::string build_line(const std::string& part) {
  for (const std::string& line : build_info())
    if (line.starts_with(part + ":")) return line;
  return part + ": unknown";
}

/// What the CUDA plugin's function `symbol` makes of the arguments.
template <class Made, class... Args> static std::unique_ptr<Made> make_by_plugin(const char* symbol, const Args&... args) {
  using Make = Made* (*)(int, const Args&...);
  try {
    const auto make = reinterpret_cast<Make>(plugin_symbol("libneox_cuda.so", symbol));
    return std::unique_ptr<Made>(make(kBackendAbi, args...));
  } catch (const Error& e) {
    if (e.kind != ErrorKind::unsupported) throw;
    fail(ErrorKind::unsupported, "device 'cuda' is not available: ", e.what(), "; this build: ", build_line("cuda"));
  }
}

static std::unique_ptr<Backend> make_cuda_backend(const BackendConfig& config) {
  return make_by_plugin<Backend>("neox_make_backend", config);
}

static std::unique_ptr<Backend> make_cuda_backend_if_any(const BackendConfig& config) {
  try {
    return make_cuda_backend(config);
  } catch (const Error& e) {
    if (e.kind != ErrorKind::unsupported) throw;
    return nullptr;
  }
}

std::unique_ptr<Backend> make_backend(const BackendConfig& config) {
  require(config.attention == "fused" || config.attention == "unfused", "attention is '", config.attention, "', expected fused or unfused");
  require(config.unfused_scores == "float32" || config.unfused_scores == "model", "unfused_scores is '", config.unfused_scores,
          "', expected float32 or model");
  if (config.device == "cuda") return make_cuda_backend(config);
  if (config.device == "auto" && config.isa == "auto")  // who names an instruction set wants the CPU
    if (auto backend = make_cuda_backend_if_any(config)) return backend;
  require(config.device == "auto" || config.device == "cpu", "device is '", config.device, "', expected auto, cpu or cuda");
  require(config.num_threads >= 0, "num_threads is ", config.num_threads, ", expected 0 (all cores) or more");
  return make_cpu_backend(config.isa, config.num_threads);
}

std::unique_ptr<Tuner> make_tuner(DType type, const std::vector<TuneCall>& calls, int32_t most_rows) {
  return make_by_plugin<Tuner>("neox_make_tuner", type, calls, most_rows);
}

}  // namespace neox
