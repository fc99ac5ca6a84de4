// SPDX-License-Identifier: Apache-2.0
#include "communicator.h"

#include <algorithm>
#include <exception>

#include "comm/host_communicator.h"
#include "cuda_backend.h"
#include "neox/engine.h"

namespace neox {
namespace cuda {
namespace {

constexpr size_t kScratch = size_t(32) << 20;
constexpr size_t kAreas = size_t(16) << 20;  // of one message, for each other rank
// Of more than two ranks each sends its whole message to all others, where NCCL's ring sends twice the message whatever their number: from
// this many bytes on the ring is taken. Between two ranks one shot sends no more than a ring does.
constexpr size_t kOneShot = size_t(1) << 20;
constexpr int kNcclSharesGpus = 23000;  // the first version that may be given one GPU several times

constexpr size_t wire_bytes(int64_t rows, int64_t cols, DType wire) {
  const int64_t packed = int64_t(16 / size_of(wire));
  return size_t(rows * ((cols + packed - 1) / packed)) * 16;
}
/// f with a tensor's rows in as few parts of about one size as `most` bytes hold, of which a row takes some.
template <class F> void by_rows(int64_t rows, size_t row_bytes, size_t most, const F& f) {
  const int64_t fit = std::max<int64_t>(1, int64_t(most / row_bytes)), parts = std::max<int64_t>(1, (rows + fit - 1) / fit);
  const int64_t step = (rows + parts - 1) / parts;
  for (int64_t first = 0; first < rows; first += step) f(first, std::min(step, rows - first));
}

AddNormArgs rows_of(const AddNormArgs& a, int64_t first, int64_t rows) {
  AddNormArgs some = a;
  for (Tensor* t : {&some.x, &some.add, &some.out, &some.out2})
    if (*t) *t = t->from(first).first(rows);
  return some;
}

size_t span(const Tensor& x) { return x.rows == 0 ? 0 : size_t((x.rows - 1) * x.ld + x.cols); }

}  // namespace

GpuCommunicator::GpuCommunicator(Parts parts) : p_(std::move(parts)) {
  check(cudaMalloc(&scratch_, kScratch), "allocate memory");
  p_.waits.add(*this);
}

GpuCommunicator::~GpuCommunicator() {
  try {
    if (std::uncaught_exceptions() > 0) abandon();
    else p_.waits.stream(p_.stream);
  } catch (const std::exception&) {}  // then it was abandoned
  cudaStreamSynchronize(p_.stream);
  p_.waits.remove(*this);
  cudaFree(scratch_);
}

void GpuCommunicator::abandon() noexcept {
  if (p_.peers) p_.peers->give_up();
  p_.nccl->abandon();
}

std::string GpuCommunicator::describe() const { return concat(p_.peers ? "own all-reduce, " : "", "NCCL ", p_.version); }

bool GpuCommunicator::takes_one_shot(size_t bytes) const { return p_.peers && (p_.size == 2 || p_.one_order || bytes <= kOneShot); }

void GpuCommunicator::all_reduce(Tensor x) {
  const size_t row = wire_bytes(1, x.cols, p_.wire);
  if (takes_one_shot(row * size_t(x.rows)))
    return by_rows(x.rows, row, p_.peers->peers().capacity,
                   [&](int64_t first, int64_t rows) { exchange_sum(p_.peers->peers(), x.from(first).first(rows), p_.wire, p_.stream); });
  const int blocks = p_.one_order ? 1 + p_.size : 1;  // what is sent, and what all sent
  by_rows(x.rows, row * size_t(blocks), kScratch, [&](int64_t first, int64_t rows) {
    const Tensor some = x.from(first).first(rows);
    const size_t bytes = row * size_t(rows), count = bytes / size_of(p_.wire);
    pack_wire(scratch_, some, p_.wire, p_.stream);
    if (p_.one_order) {
      char* all = static_cast<char*>(scratch_) + bytes;
      p_.nccl->all_gather(all, scratch_, count, p_.wire);
      sum_wires(some, all, p_.wire, p_.size, p_.stream);
    } else {
      p_.nccl->all_reduce(scratch_, count, p_.wire);
      sum_wires(some, scratch_, p_.wire, 1, p_.stream);
    }
  });
}

void GpuCommunicator::all_reduce_add_norm(Backend& be, const AddNormArgs& a) {
  const size_t row = wire_bytes(1, a.add.cols, p_.wire);
  if (!takes_one_shot(row * size_t(a.add.rows)) || !can_exchange_add_norm(a, p_.wire)) return Communicator::all_reduce_add_norm(be, a);
  by_rows(a.add.rows, row, p_.peers->peers().capacity,
          [&](int64_t first, int64_t rows) { exchange_add_norm(p_.peers->peers(), rows_of(a, first, rows), p_.wire, p_.stream); });
}

void GpuCommunicator::all_gather_cols(Tensor out, Tensor part) {
  const size_t row = wire_bytes(1, part.cols, DType::f32);
  if (takes_one_shot(row * size_t(part.rows)))
    return by_rows(part.rows, row, p_.peers->peers().capacity, [&](int64_t first, int64_t rows) {
      exchange_parts(p_.peers->peers(), out.from(first).first(rows), part.from(first).first(rows), p_.stream);
    });
  by_rows(part.rows, size_t(part.ld) * sizeof(float) * size_t(p_.size), kScratch, [&](int64_t first, int64_t rows) {
    const Tensor some = part.from(first).first(rows);
    p_.nccl->all_gather(scratch_, some.data, size_t(rows * part.ld), DType::f32);
    place_parts(out.from(first).first(rows), scratch_, some, p_.size, p_.stream);
  });
}

void GpuCommunicator::send(Tensor x, int to) { p_.nccl->send(x.data, span(x), x.dtype, to); }
void GpuCommunicator::recv(Tensor x, int from) { p_.nccl->recv(x.data, span(x), x.dtype, from); }

namespace {

std::string dotted(int version) { return concat(version / 10000, ".", version % 10000 / 100, ".", version % 100); }

std::string this_build() {
  for (const std::string& line : build_info())
    if (line.starts_with("nccl:")) return line;
  return "nccl: unknown";
}

/// Whether `is` holds of two of the ranks that share a GPU.
template <class F> bool any_that_share(const std::vector<Seat>& seats, const F& is) {
  for (size_t i = 0; i < seats.size(); i++)
    for (size_t j = 0; j < i; j++)
      if (seats[i].machine == seats[j].machine && std::equal(seats[i].gpu, std::end(seats[i].gpu), seats[j].gpu) && is(seats[i], seats[j]))
        return true;
  return false;
}

/// Not where NCCL is too old. Nor between threads: a process has one context on a GPU, and what one thread does there (loading a kernel,
/// freeing memory) may wait for all its kernels, one of which waits for this very thread's rank.
bool nccl_can_share(const std::vector<Seat>& seats) {
  return !any_that_share(seats, [](const Seat& a, const Seat& b) {
    return a.process == b.process || std::min(a.nccl, b.nccl) < kNcclSharesGpus || !a.shares_gpus || !b.shares_gpus;
  });
}

void require_nccl(const std::vector<Seat>& seats, const std::vector<int>& members) {
  for (size_t i = 0; i < seats.size(); i++) {
    if (seats[i].nccl == 0) {
      try {
        load_nccl();
      } catch (const Error& e) { fail(ErrorKind::unsupported, "several GPUs need NCCL: ", e.what(), "; this build: ", this_build()); }
      fail(ErrorKind::unsupported, "several GPUs need NCCL, which rank ", members[i], " cannot load");
    }
    require(seats[i].nccl == seats[0].nccl, "the ranks differ: rank ", members[0], " has NCCL ", dotted(seats[0].nccl), ", rank ",
            members[i], " has NCCL ", dotted(seats[i].nccl));
  }
}

}  // namespace
}  // namespace cuda

std::unique_ptr<Communicator> CudaBackend::connect(HostGroup& group, const std::vector<int>& members, Channel channel, DType wire) {
  using namespace cuda;
  enter();
  waits_.join(group);
  const std::vector<Seat> seats = exchange_plain(group, members, channel, own_seat(device_, custom_all_reduce_));
  const auto all = [&](auto has) { return std::all_of(seats.begin(), seats.end(), has); };
  if (!nccl_can_share(seats)) return std::make_unique<HostCommunicator>(*this, group, members, channel);
  require_nccl(seats, members);
  const int rank = int(std::find(members.begin(), members.end(), group.rank()) - members.begin());
  const bool shared = any_that_share(seats, [](const Seat&, const Seat&) { return true; });
  const bool near = !shared && all([&](const Seat& s) { return s.machine == seats[0].machine && s.may_exchange; });
  std::unique_ptr<PeerMemory> peers;
  if (near && channel == Channel::tensor_parallel && members.size() <= size_t(kMostPeers))
    peers = PeerMemory::connect(group, members, channel, seats, kAreas / (members.size() - 1) & ~size_t(15), stream_);
  const std::string id = exchange(group, members, channel, rank == 0 ? load_nccl().make_id() : "")[0];
  auto nccl = load_nccl().connect(id, rank, int(members.size()), stream_,
                                  [this](const std::function<bool()>& done) { waits_.until("the other ranks' GPUs", done); });
  return std::make_unique<GpuCommunicator>(GpuCommunicator::Parts{.waits = waits_,
                                                                  .stream = stream_,
                                                                  .rank = rank,
                                                                  .size = int(members.size()),
                                                                  .wire = wire,
                                                                  .one_order = deterministic_,
                                                                  .peers = std::move(peers),
                                                                  .nccl = std::move(nccl),
                                                                  .version = dotted(seats[0].nccl)});
}

}  // namespace neox
