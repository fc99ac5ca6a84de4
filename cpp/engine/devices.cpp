// SPDX-License-Identifier: Apache-2.0
#include "engine/devices.h"

#include "base/check.h"
#include "neox/machine.h"

namespace neox {
namespace {

/// The list, once it fits this machine's ranks and GPUs.
int32_t listed_gpu(const std::vector<int32_t>& devices, const HostGroup& group, int32_t count) {
  require(int(devices.size()) == group.neighbours(), "devices has ", devices.size(), " entries, expected one for each of this machine's ",
          group.neighbours(), " ranks");
  for (const int32_t d : devices) require(d >= 0 && d < count, "devices holds ", d, ", expected GPUs that CUDA sees, 0 to ", count - 1);
  return devices[size_t(group.local_rank())];
}

}  // namespace

int32_t choose_gpu(EngineConfig& config, HostGroup& group) {
  if (config.device == "cpu") {
    require(config.devices.empty(), "devices names GPUs, but device is 'cpu'");
    return 0;
  }
  const bool several = group.size() > 1;
  if (!several && config.devices.empty()) return 0;  // make_backend knows whether there is one
  const int32_t count = gpu_count();
  if (several && config.device == "auto") config.device = minimum(group, count) > 0 && config.isa == "auto" ? "cuda" : "cpu";
  const bool on_cpu = config.device == "cpu" || (config.device == "auto" && (count == 0 || config.isa != "auto"));
  require(config.devices.empty() || !on_cpu, "devices names GPUs, but the ranks run on CPUs: CUDA sees ", count,
          " GPUs here, expected some for every rank, and isa 'auto'");
  if (on_cpu || count == 0) return 0;
  if (!config.devices.empty()) return listed_gpu(config.devices, group, count);
  require(group.neighbours() <= count, "this machine has ", group.neighbours(), " ranks and ", count, count == 1 ? " GPU" : " GPUs",
          " that CUDA sees, expected a GPU for each: let ranks share one with devices, such as [0, 0], or take "
          "device 'cpu'");
  return group.local_rank();
}

}  // namespace neox
