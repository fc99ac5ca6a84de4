// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/mpi_group.h"

#include <limits.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace neox {
namespace {

// Seconds. A wait offers its core to others for as long as most steps take; a longer one sleeps between two looks, and then for longer.
constexpr double kYield = 20e-3, kIdle = 0.1;

void pause_for(double waited) {
  if (waited < kYield) sched_yield();
  else usleep(waited < kIdle ? 50 : 1000);
}

int end_of_mpi(MPI_Comm, int, void* group, void*) {
  static_cast<MpiGroup*>(group)->retire();
  return MPI_SUCCESS;
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  std::string words(text, size_t(std::max(length, 0)));
  std::replace(words.begin(), words.end(), '\n', ' ');
  fail(ErrorKind::runtime, call, ": ", words);
}

MpiGroup::MpiGroup(MPI_Comm parent, double timeout) : HostGroup(timeout) {
  check_mpi(MPI_Comm_rank(parent, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(parent, &size_), "MPI_Comm_size");
  if (size_ == 1) return;
  duplicate(parent);
  peers_.resize(size_t(size_));
  check_mpi(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, end_of_mpi, &key_, nullptr), "MPI_Comm_create_keyval");
  check_mpi(MPI_Comm_set_attr(MPI_COMM_SELF, key_, this), "MPI_Comm_set_attr");
  watcher_ = std::thread([this] { watch(); });
  count_neighbours();
}

/// A communicator of our own, if all ranks come for it in time.
void MpiGroup::duplicate(MPI_Comm parent) {
  MPI_Request request;
  auto made = std::make_unique<MPI_Comm>(MPI_COMM_NULL);
  check_mpi(MPI_Comm_idup(parent, made.get(), &request), "MPI_Comm_idup");
  const auto begin = Clock::now();
  for (int done = 0;; pause_for(seconds_since(begin))) {
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Comm_idup");
    if (done) break;
    if (seconds_since(begin) < timeout()) continue;
    made.release();  // MPI may still write there
    fail(ErrorKind::runtime, "rank ", rank_, " waited ", timeout(), " s (comm_timeout) in vain for all ", size_,
         " ranks to make their engine");
  }
  comm_ = *made;
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

void MpiGroup::count_neighbours() {
  char name[HOST_NAME_MAX + 1] = "";
  gethostname(name, sizeof name - 1);
  std::vector<int> all(static_cast<size_t>(size_));
  std::iota(all.begin(), all.end(), 0);
  const std::vector<std::string> names = exchange(*this, all, Channel::meeting, name);
  neighbours_ = int(std::count(names.begin(), names.end(), name));
  local_rank_ = int(std::count(names.begin(), names.begin() + rank_, name));
}

MpiGroup::~MpiGroup() {
  retire();
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (!finalized && key_ != MPI_KEYVAL_INVALID && !failed_) {
    MPI_Comm_delete_attr(MPI_COMM_SELF, key_);
    MPI_Comm_free_keyval(&key_);
  }
  // The communicator is left to MPI_Finalize: others may still be sending to it. So is what they never took.
  if (!outgoing_.empty()) new std::list<Outgoing>(std::move(outgoing_));
}

void MpiGroup::retire() {
  {
    const std::lock_guard lock(news_);
    stop_ = true;
  }
  wake_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

std::string MpiGroup::describe() const {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string all(text, size_t(std::max(length, 0)));
  return all.substr(0, all.find_first_of(",\n"));
}

void MpiGroup::post(int to, int tag, const void* data, size_t bytes) {
  const auto* begin = static_cast<const char*>(data);
  Outgoing& out = outgoing_.emplace_back();
  out.data.assign(begin, begin + bytes);
  check_mpi(MPI_Isend(out.data.data(), int(bytes), MPI_BYTE, to, tag, comm_, &out.request), "MPI_Isend");
}

void MpiGroup::send(int to, Channel channel, const void* data, size_t bytes) {
  if (bytes > INT_MAX) fail(ErrorKind::runtime, "a message of ", bytes, " bytes, expected at most ", INT_MAX);
  {
    const std::lock_guard lock(mpi_);
    move_along();
    post(to, int(channel), data, bytes);
  }
  if (bytes < kLarge) return;
  {
    const std::lock_guard lock(news_);
    if (std::exchange(busy_, true)) return;
  }
  wake_.notify_all();
}

bool MpiGroup::complete(MPI_Request& request, MPI_Status& status, int from) {
  const std::lock_guard lock(mpi_);
  int done = 0;
  try {
    check_mpi(MPI_Test(&request, &done, &status), "MPI_Test");
  } catch (const Error& e) {  // MPI may notice first that a process is gone
    fail(ErrorKind::runtime, "rank ", rank_, " cannot receive from rank ", from, " in ", place(), ": ", e.what());
  }
  return done != 0;
}

void MpiGroup::check() {
  if (!failed_) return;
  const std::lock_guard lock(news_);
  throw Error(kind_, concat(why_, "; rank ", rank_, " was in ", place()));
}

void MpiGroup::check_peer(int from) {
  check();
  const std::lock_guard lock(mpi_);
  const Peer& peer = peers_[size_t(from)];
  if (peer.left && seconds_since(peer.heard) > 1)  // what it sent before may be on its way
    fail(ErrorKind::runtime, "rank ", rank_, " waits for rank ", from, ", whose engine is gone, in ", place());
}

size_t MpiGroup::recv(int from, Channel channel, void* data, size_t capacity, Patience patience) {
  if (capacity > INT_MAX) capacity = INT_MAX;
  if (incoming_.size() < capacity) incoming_.resize(capacity);
  MPI_Request request;
  MPI_Status status;
  {
    const std::lock_guard lock(mpi_);
    check_mpi(MPI_Irecv(incoming_.data(), int(capacity), MPI_BYTE, from, int(channel), comm_, &request), "MPI_Irecv");
  }
  try {
    const auto begin = Clock::now();
    if (!spin_([&] { return complete(request, status, from); }))
      for (double waited = 0; !complete(request, status, from); pause_for(waited), waited = seconds_since(begin)) {
        check_peer(from);
        if (patience == Patience::timeout && waited > timeout()) give_up(concat("rank ", from));
      }
  } catch (...) {
    new std::vector<char>(std::move(incoming_));  // MPI may still write there
    incoming_ = {};
    throw;
  }
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  if (bytes > 0) std::memcpy(data, incoming_.data(), size_t(bytes));
  return size_t(bytes);
}

}  // namespace neox
