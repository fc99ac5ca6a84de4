// SPDX-License-Identifier: Apache-2.0
#include "backend/backend.h"

#include "base/check.h"
#include "base/plugin.h"
#include "cpu/cpu_backend.h"
#include "neox/engine.h"

namespace neox {

Backend::~Backend() = default;

static std::string build_line(const std::string& part) {
  for (const std::string& line : build_info())
    if (line.starts_with(part + ":")) return line;
  return part + ": unknown";
}

static std::unique_ptr<Backend> make_cuda_backend() {
  using Make = Backend* (*)(int);
  try {
    const auto make = reinterpret_cast<Make>(plugin_symbol("libneox_cuda.so", "neox_make_backend"));
    return std::unique_ptr<Backend>(make(kBackendAbi));
  } catch (const Error& e) {
    fail(ErrorKind::unsupported, "device 'cuda' is not available: ", e.what(), "; this build: ", build_line("cuda"));
  }
}

std::unique_ptr<Backend> make_backend(const BackendConfig& config) {
  if (config.device == "cuda") return make_cuda_backend();
  require(config.device == "auto" || config.device == "cpu", "device is '", config.device, "', expected auto, cpu or cuda");
  require(config.num_threads >= 0, "num_threads is ", config.num_threads, ", expected 0 (all cores) or more");
  return make_cpu_backend(config.isa, config.num_threads);
}

}  // namespace neox
