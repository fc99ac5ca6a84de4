// SPDX-License-Identifier: Apache-2.0
#include "comm/host_communicator.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "base/check.h"

namespace neox {
namespace {

// Up to this many numbers each rank sends all it has to every other, in one exchange; of more, each rank sums one slice for all.
constexpr size_t kWhole = 16384;

/// Of a tensor with what lies between its rows, which goes along: all ranks have the same strides.
size_t span(const Tensor& x) { return x.rows == 0 ? 0 : size_t((x.rows - 1) * x.ld + x.cols); }

void add(float* sum, const float* x, size_t count) {
  for (size_t i = 0; i < count; i++) sum[i] += x[i];
}

}  // namespace

HostCommunicator::HostCommunicator(Backend& backend, HostGroup& group, std::vector<int> members, Channel channel)
    : backend_(backend), group_(group), members_(std::move(members)), channel_(channel), parts_(members_.size()) {
  const auto self = std::find(members_.begin(), members_.end(), group.rank());
  assert(self != members_.end());
  rank_ = int(self - members_.begin());
}

void HostCommunicator::enter(const char* what) {
  if (step_ != group_.doing.step) step_ = group_.doing.step, nth_ = 0;
  group_.doing.what = what, group_.doing.nth = ++nth_;
}

float* HostCommunicator::part(int rank, size_t count) {
  auto& p = parts_[size_t(rank)];
  if (p.size() < count) p.resize(count);
  return p.data();
}

void HostCommunicator::take(int from, float* data, size_t count) {
  const size_t bytes = group_.recv(members_[size_t(from)], channel_, data, count * sizeof(float));
  if (bytes != count * sizeof(float))
    fail(ErrorKind::runtime, "rank ", group_.rank(), " got ", bytes, " bytes from rank ", members_[size_t(from)], ", expected ",
         count * sizeof(float), ", in step ", step_, ", ", group_.doing.what, " ", nth_);
}

void HostCommunicator::download(const Tensor& x, float* to) {
  assert(x.dtype == DType::f32);
  backend_.download(to, x.data, span(x) * sizeof(float));
  backend_.synchronize();
}

void HostCommunicator::all_reduce(Tensor x) {
  enter("all_reduce");
  const size_t count = span(x);
  download(x, part(rank_, count));
  if (size() == 2 || count <= kWhole) exchange(count);
  else reduce_slices(count);
  backend_.upload(x.data, part(0, count), count * sizeof(float));
}

/// Leaves the sum in part 0.
void HostCommunicator::exchange(size_t count) {
  for (int r = 0; r < size(); r++)
    if (r != rank_) post(r, part(rank_, count), count);
  for (int r = 0; r < size(); r++)
    if (r != rank_) take(r, part(r, count), count);
  for (int r = 1; r < size(); r++) add(part(0, count), part(r, count), count);
}

/// The same sums, of which each rank makes one slice.
void HostCommunicator::reduce_slices(size_t count) {
  const auto begin = [&](int r) { return count * size_t(r) / size_t(size()); };
  const size_t first = begin(rank_), mine = begin(rank_ + 1) - first;
  for (int r = 0; r < size(); r++)
    if (r != rank_) post(r, part(rank_, count) + begin(r), begin(r + 1) - begin(r));
  for (int r = 0; r < size(); r++)
    if (r != rank_) take(r, part(r, count) + first, mine);
  float* sum = part(0, count);
  for (int r = 1; r < size(); r++) add(sum + first, part(r, count) + first, mine);
  for (int r = 0; r < size(); r++)
    if (r != rank_) post(r, sum + first, mine);
  for (int r = 0; r < size(); r++)
    if (r != rank_) take(r, sum + begin(r), begin(r + 1) - begin(r));
}

void HostCommunicator::all_gather_cols(Tensor out, Tensor part_of_mine) {
  enter("all_gather");
  const size_t count = span(part_of_mine);
  download(part_of_mine, part(rank_, count));
  for (int r = 0; r < size(); r++)
    if (r != rank_) post(r, part(rank_, count), count);
  for (int r = 0; r < size(); r++)
    if (r != rank_) take(r, part(r, count), count);
  const int64_t cols = part_of_mine.cols;
  for (int r = 0; r < size(); r++)
    for (int64_t row = 0; row < out.rows; row++)
      backend_.upload(out.row(row) + r * cols, part(r, count) + row * part_of_mine.ld, size_t(cols) * sizeof(float));
}

void HostCommunicator::send(Tensor x, int to) {
  enter("send");
  download(x, part(rank_, span(x)));
  post(to, part(rank_, span(x)), span(x));
}

void HostCommunicator::recv(Tensor x, int from) {
  enter("recv");
  take(from, part(from, span(x)), span(x));
  backend_.upload(x.data, part(from, span(x)), span(x) * sizeof(float));
}

}  // namespace neox
