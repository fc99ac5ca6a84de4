// SPDX-License-Identifier: Apache-2.0
#include "comm/group.h"

#include <algorithm>
#include <sstream>

#include "base/check.h"

namespace neox {

HostGroup::~HostGroup() = default;

std::string HostGroup::place() const {
  if (doing.step == 0) return doing.what;
  return doing.nth ? concat("step ", doing.step, ", ", doing.what, " ", doing.nth) : concat("step ", doing.step, ", ", doing.what);
}

void HostGroup::give_up(const std::string& whom) const {
  fail(ErrorKind::runtime, "rank ", rank(), " waited ", timeout_, " s (comm_timeout) for ", whom, " in vain, in ", place());
}

void HostGroup::refuse(int from, size_t bytes, size_t capacity) const {
  fail(ErrorKind::runtime, "rank ", rank(), " got ", bytes, " bytes from rank ", from, ", expected at most ", capacity, ", in ", place(),
       ": the ranks do not run the same version or model");
}

namespace {

constexpr size_t kPiece = size_t(64) << 20;  // of a text

/// The first line in which `other` differs from `mine`, as "name: other's value, expected mine"; empty if none does.
std::string difference(const std::string& mine, const std::string& other, int rank) {
  std::istringstream a(mine), b(other);
  for (std::string x, y;;) {
    const bool more_a = bool(std::getline(a, x)), more_b = bool(std::getline(b, y));
    if (!more_a && !more_b) return "";
    if (more_a && more_b && x == y) continue;
    return concat("the ranks differ: rank 0 has ", more_a ? x : "nothing more", ", rank ", rank, " has ", more_b ? y : "nothing more");
  }
}

}  // namespace

void send_text(HostGroup& group, int to, Channel channel, const std::string& text) {
  const uint64_t size = text.size();
  group.send(to, channel, &size, sizeof size);
  for (size_t at = 0; at < text.size(); at += kPiece) group.send(to, channel, text.data() + at, std::min(kPiece, text.size() - at));
}

std::string recv_text(HostGroup& group, int from, Channel channel, HostGroup::Patience patience) {
  uint64_t size = 0;
  group.recv(from, channel, &size, sizeof size, patience);
  std::string text(size, '\0');
  for (size_t at = 0; at < text.size(); at += kPiece) group.recv(from, channel, text.data() + at, std::min(kPiece, text.size() - at));
  return text;
}

std::vector<std::string> exchange(HostGroup& group, const std::vector<int>& members, Channel channel, const std::string& mine) {
  std::vector<std::string> said;
  for (const int r : members)
    if (r != group.rank()) send_text(group, r, channel, mine);
  for (const int r : members) said.push_back(r == group.rank() ? mine : recv_text(group, r, channel));
  return said;
}

void agree(HostGroup& group, const std::string& lines) {
  std::string verdict;
  if (group.rank() == 0) {
    for (int r = 1; r < group.size(); r++) {
      const std::string found = difference(lines, recv_text(group, r, Channel::meeting), r);
      if (verdict.empty()) verdict = found;
    }
    for (int r = 1; r < group.size(); r++) send_text(group, r, Channel::meeting, verdict);
  } else {
    send_text(group, 0, Channel::meeting, lines);
    verdict = recv_text(group, 0, Channel::meeting);
  }
  require(verdict.empty(), verdict);
}

int64_t minimum(HostGroup& group, int64_t value) {
  if (group.rank() != 0) {
    group.send(0, Channel::meeting, &value, sizeof value);
    group.recv(0, Channel::meeting, &value, sizeof value);
    return value;
  }
  for (int r = 1; r < group.size(); r++) {
    int64_t other = 0;
    group.recv(r, Channel::meeting, &other, sizeof other);
    value = std::min(value, other);
  }
  for (int r = 1; r < group.size(); r++) group.send(r, Channel::meeting, &value, sizeof value);
  return value;
}

}  // namespace neox
