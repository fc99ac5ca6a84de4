// SPDX-License-Identifier: Apache-2.0
// The signs of life between MPI ranks, and what comes of their absence.
#include <signal.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "comm/mpi/mpi_group.h"

namespace neox {
namespace {

constexpr int kSignTag = 100;
constexpr double kBeats = 8;    // signs in a time-out
constexpr double kLost = 0.75;  // of a time-out without a sign is the end
constexpr auto kLook = std::chrono::microseconds(20000), kLookWhenBusy = std::chrono::microseconds(100);

}  // namespace

void MpiGroup::watch() {
  sigset_t all;  // signals are the business of the threads that the program itself made
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  auto last = Clock::now() - std::chrono::hours(1);
  bool busy = false;
  for (std::unique_lock lock(news_); !stop_;) {
    wake_.wait_for(lock, busy ? kLookWhenBusy : kLook, [&] { return stop_ || (busy_ && !busy); });
    busy = busy_;
    lock.unlock();
    try {
      look();
      if (seconds_since(last) > timeout() / kBeats && !failed_) last = Clock::now(), sign(Sign::alive);
      check_signs();
    } catch (const std::exception& e) { mark_failed(ErrorKind::runtime, concat("rank ", rank_, ": ", e.what())); }
    lock.lock();
    const std::lock_guard mpi(mpi_);
    busy_ = std::any_of(outgoing_.begin(), outgoing_.end(), [](const Outgoing& o) { return o.data.size() >= kLarge; });
  }
  try {
    if (!failed_) sign(Sign::leaving);
  } catch (const std::exception&) {}  // they will notice
}

void MpiGroup::look() {
  const std::lock_guard lock(mpi_);
  move_along();
  listen();
}

/// Forgets messages that have left.
void MpiGroup::move_along() {
  for (auto out = outgoing_.begin(); out != outgoing_.end();) {
    int done = 0;
    check_mpi(MPI_Test(&out->request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    out = done ? outgoing_.erase(out) : std::next(out);
  }
}

void MpiGroup::sign(Sign sign, ErrorKind kind, const std::string& why) {
  const int32_t head[2] = {int32_t(sign), int32_t(kind)};
  std::string message(reinterpret_cast<const char*>(head), sizeof head);
  message += why;
  const std::lock_guard lock(mpi_);
  for (int r = 0; r < size_; r++)
    if (sign == Sign::alive ? watches(r) : r != rank_) post(r, kSignTag, message.data(), message.size());
}

void MpiGroup::listen() {
  for (;;) {
    int there = 0, bytes = 0;
    MPI_Status status;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, kSignTag, comm_, &there, &status), "MPI_Iprobe");
    if (!there) return;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    std::string message(size_t(bytes), '\0');
    check_mpi(MPI_Recv(message.data(), bytes, MPI_BYTE, status.MPI_SOURCE, kSignTag, comm_, MPI_STATUS_IGNORE), "MPI_Recv");
    int32_t head[2] = {};
    std::memcpy(head, message.data(), std::min(sizeof head, message.size()));
    Peer& peer = peers_[size_t(status.MPI_SOURCE)];
    peer.heard = Clock::now();
    if (Sign(head[0]) == Sign::leaving) peer.left = true;
    if (Sign(head[0]) == Sign::failed) mark_failed(ErrorKind(head[1]), message.substr(sizeof head));
  }
}

/// Whoever gave no sign for long is lost, and all are told.
void MpiGroup::check_signs() {
  if (failed_) return;
  std::string lost;
  {
    const std::lock_guard lock(mpi_);
    for (int r = 0; r < size_ && lost.empty(); r++)
      if (watches(r) && !peers_[size_t(r)].left && seconds_since(peers_[size_t(r)].heard) > kLost * timeout())
        lost = concat("rank ", r, " gave rank ", rank_, " no sign of life for ", kLost * timeout(), " s (comm_timeout ", timeout(),
                      " s): it was killed, stopped or cut off");
  }
  if (lost.empty()) return;
  mark_failed(ErrorKind::runtime, lost);
  sign(Sign::failed, ErrorKind::runtime, lost);
}

void MpiGroup::mark_failed(ErrorKind kind, const std::string& why) {
  const std::lock_guard lock(news_);
  if (failed_) return;  // the first reason is the reason
  kind_ = kind, why_ = why;
  failed_ = true;
}

void MpiGroup::abort(ErrorKind kind, const std::string& why) noexcept {
  if (size_ == 1 || failed_) return;
  try {
    const std::string text = concat("rank ", rank_, " failed in ", place(), ": ", why);
    mark_failed(kind, text);
    sign(Sign::failed, kind, text);
    look();
  } catch (const std::exception&) {}  // they will notice
}

}  // namespace neox
