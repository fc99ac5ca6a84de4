// SPDX-License-Identifier: Apache-2.0
// What libneox asks of this plugin: a group of MPI's ranks, or the reason why there is none.
#include <cstdlib>

#include "base/check.h"
#include "comm/mpi.h"
#include "comm/mpi/mpi_group.h"

namespace neox {
namespace {

bool initialized() {
  int yes = 0;
  MPI_Initialized(&yes);
  return yes != 0;
}

/// Some end in a zero, some in a line's end.
std::string trimmed(const std::string& text) {
  const std::string words = text.c_str();
  return words.substr(0, words.find_last_not_of(" \t\r\n") + 1);
}

std::string library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  check_mpi(MPI_Get_library_version(text, &length), "MPI_Get_library_version");
  return trimmed(text);
}

std::string first_words(const std::string& text) { return text.substr(0, text.find_first_of(",\n")); }

/// mpirun and the library of two MPIs do not see each other: every process is then alone, and rank 0.
void check_launcher() {
  int size = 1;
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* launched = std::getenv(name);
    if (launched && size == 1 && std::atoi(launched) > 1)
      fail(ErrorKind::unsupported, "mpirun started ", launched, " ranks (", name, "), but ", first_words(library()),
           " sees one: mpirun and the library are of different MPIs");
  }
}

class Plugin final : public MpiPlugin {
 public:
  int world_size() override {
    start();
    int size = 1;
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
    return size;
  }

  std::unique_ptr<HostGroup> connect(const MpiConfig& config) override {
    if (!config.comm) start();
    if (!initialized()) fail(ErrorKind::runtime, "MPI is not initialised: import mpi4py.MPI, or call MPI_Init_thread, first");
    if (!config.library.empty() && trimmed(config.library) != library())
      fail(ErrorKind::unsupported, "the communicator is of ", first_words(config.library), ", but libneox_mpi.so is linked to ",
           first_words(library()), ": two MPIs in one process");
    int level = 0;
    check_mpi(MPI_Query_thread(&level), "MPI_Query_thread");
    if (level < MPI_THREAD_MULTIPLE)
      fail(ErrorKind::unsupported, "MPI was initialised with thread level ", level, ", expected MPI_THREAD_MULTIPLE (", MPI_THREAD_MULTIPLE,
           "), which is mpi4py's default");
    check_launcher();
    const MPI_Comm comm = config.comm ? MPI_Comm_f2c(MPI_Fint(*config.comm)) : MPI_COMM_WORLD;
    return std::make_unique<MpiGroup>(comm, config.timeout);
  }

  void abort(int exit_code) override {
    if (started_) MPI_Abort(MPI_COMM_WORLD, exit_code);
  }

 private:
  void start() {
    if (initialized()) return;
    int level = 0;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
    started_ = true;
    std::atexit([] {
      int over = 0;
      MPI_Finalized(&over);
      if (!over) MPI_Finalize();
    });
    check_launcher();
  }

  bool started_ = false;
};

}  // namespace
}  // namespace neox

extern "C" NEOX_API neox::MpiPlugin* neox_mpi_plugin(int abi) {
  static neox::Plugin plugin;
  return abi == neox::kMpiAbi ? &plugin : nullptr;
}
