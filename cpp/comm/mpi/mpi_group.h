// SPDX-License-Identifier: Apache-2.0
#pragma once
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/spin.h"
#include "comm/group.h"

namespace neox {

constexpr size_t kLarge = 4096;  // bytes of a message that MPI may not send before the receiver asks

/// Throws Error(runtime) with MPI's own words unless the call succeeded.
void check_mpi(int code, const char* call);

/// Ranks that are MPI processes. MPI is asked, and never waited for: every wait here is a loop that looks at the clock, and at whether
/// another rank has failed. A thread of its own moves messages along while the rank computes, gives a sign of life, and listens for the
/// others': rank 0 watches all, the others watch rank 0, be they loading, at work or idle.
class MpiGroup final : public HostGroup {
 public:
  MpiGroup(MPI_Comm parent, double timeout);
  ~MpiGroup() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int neighbours() const override { return neighbours_; }
  int local_rank() const override { return local_rank_; }
  std::string describe() const override;
  void send(int to, Channel channel, const void* data, size_t bytes) override;
  size_t recv(int from, Channel channel, void* data, size_t capacity, Patience patience) override;
  void check() override;
  void abort(ErrorKind kind, const std::string& why) noexcept override;
  void retire();  // MPI ends, or this group does

 private:
  using Clock = std::chrono::steady_clock;
  enum class Sign : int32_t { alive, failed, leaving };
  struct Outgoing {
    std::vector<char> data;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  struct Peer {
    Clock::time_point heard = Clock::now();
    bool left = false;  // in good order, when it was last heard
  };
  void duplicate(MPI_Comm parent);
  void count_neighbours();
  void post(int to, int tag, const void* data, size_t bytes);
  bool complete(MPI_Request& request, MPI_Status& status, int from);
  void check_peer(int from);
  // mpi_watch.cpp
  void watch();
  void look();
  void move_along();
  void sign(Sign sign, ErrorKind kind = ErrorKind::runtime, const std::string& why = "");
  void listen();
  void check_signs();
  void mark_failed(ErrorKind kind, const std::string& why);
  bool watches(int other) const { return other != rank_ && (rank_ == 0 || other == 0); }
  double seconds_since(Clock::time_point t) const { return std::chrono::duration<double>(Clock::now() - t).count(); }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, neighbours_ = 1, local_rank_ = 0;
  int key_ = MPI_KEYVAL_INVALID;  // under which MPI_COMM_SELF knows this group, so that it is told of the end
  AdaptiveSpin spin_;
  std::vector<char> incoming_;

  std::mutex mpi_;                // MPI is called by one thread of this group at a time; over the two below
  std::list<Outgoing> outgoing_;  // sent, and not known to have left
  std::vector<Peer> peers_;       // [ranks]

  std::atomic<bool> failed_{false};
  std::mutex news_;  // over the four below
  ErrorKind kind_ = ErrorKind::runtime;
  std::string why_;
  bool stop_ = false, busy_ = false;  // busy: large messages are on their way
  std::condition_variable wake_;
  std::thread watcher_;
};

}  // namespace neox
