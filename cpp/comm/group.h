// SPDX-License-Identifier: Apache-2.0
// The control plane between the ranks of one engine: messages of bytes, and the news that one of them has failed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "neox/error.h"

namespace neox {

/// Messages between two ranks keep their order within a channel.
enum class Channel : int32_t { meeting, steps, tensor_parallel, pipeline, results, probes };
constexpr int kChannels = 6;

/// Where a rank is, for what it says when it waits in vain.
struct Doing {
  int64_t step = 0;  // of rank 0's count; 0 = the start
  const char* what = "the start";
  int32_t nth = 0;  // of this kind in the step
};

class NEOX_API HostGroup {
 public:
  explicit HostGroup(double timeout) : timeout_(timeout) {}
  virtual ~HostGroup();
  HostGroup(const HostGroup&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int neighbours() const = 0;          // ranks on this machine, this one included
  virtual int local_rank() const = 0;          // this one's place among them
  virtual std::string describe() const = 0;    // "threads", "Open MPI v4.1.4"
  double timeout() const { return timeout_; }  // seconds

  /// Queues a message; `data` may change when this returns.
  virtual void send(int to, Channel channel, const void* data, size_t bytes) = 0;
  enum class Patience { timeout, forever };
  /// Waits for the next message, and returns its size. Throws Error where it is longer than `capacity`, where another rank has failed, and,
  /// unless it may take forever, when nothing came within the time-out.
  virtual size_t recv(int from, Channel channel, void* data, size_t capacity, Patience patience = Patience::timeout) = 0;
  /// Throws Error where another rank has failed.
  virtual void check() = 0;
  /// Tells all ranks that this one has failed: whatever they wait for throws Error(kind).
  virtual void abort(ErrorKind kind, const std::string& why) noexcept = 0;

  std::string place() const;  // "step 12, all_reduce 7"
  /// Throws Error: nothing came in time from `whom`, "rank 1".
  [[noreturn]] void give_up(const std::string& whom) const;

  Doing doing;  // kept by the rank's own thread

 protected:
  [[noreturn]] void refuse(int from, size_t bytes, size_t capacity) const;

 private:
  const double timeout_;
};

/// Text of any length.
NEOX_API void send_text(HostGroup& group, int to, Channel channel, const std::string& text);
NEOX_API std::string recv_text(HostGroup& group, int from, Channel channel, HostGroup::Patience patience = HostGroup::Patience::timeout);

/// What each of those ranks says, in their order. All of them come here.
NEOX_API std::vector<std::string> exchange(HostGroup& group, const std::vector<int>& members, Channel channel, const std::string& mine);

/// What every rank has to have alike, as lines "name: value". All ranks come here; where two differ all throw Error(invalid), which names
/// the first line that differs, and what it is on which rank.
void agree(HostGroup& group, const std::string& lines);
/// The least of the ranks' values, on all of them.
int64_t minimum(HostGroup& group, int64_t value);

}  // namespace neox
