// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi.h"

#include "base/check.h"
#include "base/plugin.h"
#include "neox/engine.h"

namespace neox {

MpiPlugin::~MpiPlugin() = default;

namespace {

std::string this_build() {
  for (const std::string& line : build_info())
    if (line.starts_with("mpi:")) return line;
  return "mpi: unknown";
}

MpiPlugin& load() {
  using Open = MpiPlugin* (*)(int);
  try {
    const auto open = reinterpret_cast<Open>(plugin_symbol("libneox_mpi.so", "neox_mpi_plugin"));
    if (MpiPlugin* plugin = open(kMpiAbi)) return *plugin;
    fail(ErrorKind::unsupported, "libneox_mpi.so is of another version than libneox.so: install both together");
  } catch (const Error& e) {
    if (e.kind != ErrorKind::unsupported) throw;
    fail(ErrorKind::unsupported, "MPI is not available: ", e.what(), "; this build: ", this_build());
  }
}

/// "Open MPI" or "MPICH": two that must not meet in one process. Empty if it is neither.
std::string family(const std::string& library) {
  for (const char* name : {"Open MPI", "MPICH"})
    if (library.find(name) != std::string::npos) return name;
  return "";
}

/// Before the plugin brings its own MPI into a process that has one already.
void check_family(const std::string& library) {
  const std::string theirs = family(library), ours = family(this_build());
  if (theirs.empty() || ours.empty() || theirs == ours) return;
  fail(ErrorKind::unsupported, "the communicator is of ", library.substr(0, library.find_first_of(",\n")),
       ", but neoxnative was built for ", ours, " (", this_build(), "): reinstall it where ", theirs,
       "'s mpicc is first on the PATH, or let mpi4py use ", ours, " (MPI4PY_LIBMPI)");
}

}  // namespace

std::unique_ptr<HostGroup> make_mpi_group(const MpiConfig& config) {
  check_family(config.library);
  return load().connect(config);
}

int mpi_world_size() { return load().world_size(); }

void mpi_abort(int exit_code) {
  try {
    load().abort(exit_code);
  } catch (const Error&) {}  // there is no MPI to end
}

}  // namespace neox
