// SPDX-License-Identifier: Apache-2.0
// MPI, which is never part of this library: a plugin beside it, libneox_mpi.so, is linked to it.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "comm/group.h"

namespace neox {

struct MpiConfig {
  std::optional<int32_t> comm;  // Fortran's handle; unset = MPI_COMM_WORLD
  std::string library;          // what MPI_Get_library_version said to whoever made the handle; empty = not compared
  double timeout = 60;          // seconds
};
/// Ranks that are MPI processes. Throws Error(unsupported) where this build has no MPI, or another one than the process.
std::unique_ptr<HostGroup> make_mpi_group(const MpiConfig& config);

/// What the plugin's `extern "C" neox::MpiPlugin* neox_mpi_plugin(int abi)` returns, or null where the ABI is another.
class NEOX_API MpiPlugin {
 public:
  virtual ~MpiPlugin();
  virtual int world_size() = 0;
  virtual std::unique_ptr<HostGroup> connect(const MpiConfig& config) = 0;
  virtual void abort(int exit_code) = 0;
};
constexpr int kMpiAbi = 1;

}  // namespace neox
