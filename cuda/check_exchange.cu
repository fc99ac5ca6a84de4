// SPDX-License-Identifier: Apache-2.0
// Collectives between GPUs, checked against double-precision sums and timed: ours beside NCCL's. A rank is a thread, on a GPU of its own.
//   neox_check_exchange            as many ranks as GPUs
//   neox_check_exchange one RANKS  the kernels alone, all ranks on one GPU, small messages, not timed
#include <atomic>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <thread>

#include "check_timing.cuh"
#include "comm/thread_group.h"
#include "cuda_backend.h"
#include "exchange.h"

namespace neox::cuda::trial {
namespace {

constexpr int64_t kHidden = 6144, kVocab = 50432, kPad = 16;  // pad: floats between the end of a row and the next
constexpr int kInputs = 7, kTogether = 98;
constexpr double kTolerance[] = {1e-6, 1e-3, 8e-3};  // of a sum of numbers of about 1, by type: the rounding of what is sent

std::atomic<int> wrong{0};

std::vector<float> numbers(int rank, int64_t rows, int64_t cols, int seed) {
  std::mt19937 random(unsigned(rank * 1000 + seed));
  std::vector<float> v(size_t(rows * (cols + kPad)));
  for (float& x : v) x = float(int32_t(random())) * 0x1p-30f;
  v[size_t(seed)] = -0.f;
  return v;
}
std::vector<float> floats(const Memory& m) {
  std::vector<float> v(m.bytes() / sizeof(float));
  ok(cudaMemcpy(v.data(), m.data(), m.bytes(), cudaMemcpyDeviceToHost), "download");
  return v;
}
float sent(float x, DType wire) {
  uint16_t h[2];
  store_from_f32(h, wire == DType::f32 ? DType::f16 : wire, 0, x);
  return wire == DType::f32 ? x : load_as_f32(h, wire, 0);
}
Tensor view(void* data, int64_t rows, int64_t cols) {
  return {.data = data, .rows = rows, .cols = cols, .ld = cols + kPad, .dtype = DType::f32};
}

void check_sum(const std::vector<float>& got, int ranks, int64_t rows, int64_t cols, int seed, DType wire, bool exact) {
  std::vector<std::vector<float>> all;
  for (int r = 0; r < ranks; r++) all.push_back(numbers(r, rows, cols, seed));
  int bad = 0;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) {
      const auto at = size_t(i * (cols + kPad) + j);
      float in_order = 0;
      double sum = 0;
      for (const auto& v : all) in_order += sent(v[at], wire), sum += v[at];
      if (exact ? got[at] != in_order : std::abs(got[at] - sum) > kTolerance[int(wire)] * ranks) bad++;
    }
  if (bad) std::printf("WRONG: %d of %ld sums, %ld rows, %s\n", bad, long(rows * cols), long(rows), name_of(wire)), wrong++;
}

/// What exchange_add_norm is given, and add_norm after exchange_sum.
struct Residual {
  Memory x, bias, gamma, beta, out, out2;
  Norm norm, norm2;

  Residual(int64_t rows, int64_t cols)
      : x(numbers(100, rows, cols, 4)), bias(numbers(100, 1, cols, 5)), gamma(numbers(100, 1, cols, 6)), beta(numbers(100, 1, cols, 7)),
        out(size_t(rows * (cols + kPad)) * 4), out2(size_t(rows * (cols + kPad)) * 4), norm{.gamma = view(gamma.data(), 1, cols),
                                                                                            .beta = view(beta.data(), 1, cols),
                                                                                            .eps = 1e-5f},
        norm2{.gamma = view(beta.data(), 1, cols), .beta = view(bias.data(), 1, cols), .eps = 1e-5f} {
    for (const Memory* m : {&out, &out2}) ok(cudaMemset(m->data(), 0, m->bytes()), "fill");
  }
  AddNormArgs args(const Tensor& add, DType type) const {
    const auto normed = [&](const Memory& m) {
      Tensor t = view(m.data(), add.rows, add.cols);
      t.dtype = type;
      return t;
    };
    return {.x = view(x.data(), add.rows, add.cols),
            .add = add,
            .bias = view(bias.data(), 1, add.cols),
            .norm = &norm,
            .out = normed(out),
            .norm2 = &norm2,
            .out2 = normed(out2)};
  }
  bool same_as(const Residual& other) const {
    return x.download() == other.x.download() && out.download() == other.out.download() && out2.download() == other.out2.download();
  }
};

/// One rank's side of everything that is measured on several GPUs.
class Rank {
 public:
  Rank(HostGroup& group, std::barrier<>& all) : group_(group), all_(all) {
    for (int r = 0; r < group.size(); r++) members_.push_back(r);
  }
  void run() {
    for (const bool own : {true, false}) {
      CudaBackend backend(group_.rank(), {.gpu = group_.rank(), .custom_all_reduce = own});
      const auto comm = backend.connect(group_, members_, Channel::tensor_parallel, DType::f16);
      if (group_.rank() == 0) std::printf("%s\n", comm->describe().c_str());
      for (const int64_t rows : {1, 8, 64, 512, 2048}) reduce(backend, *comm, rows, own);
      for (const int64_t rows : {1, 8, 64}) gather(backend, *comm, rows);
    }
  }

 private:
  void reduce(CudaBackend& backend, Communicator& comm, int64_t rows, bool own) {
    std::deque<Memory> inputs;
    for (int i = 0; i < kInputs; i++) inputs.emplace_back(numbers(group_.rank(), rows, kHidden, i));
    const auto once = backend.record([&] {
      for (const Memory& m : inputs) comm.all_reduce(view(m.data(), rows, kHidden));
    });
    once->run();
    backend.synchronize();
    for (int i = 0; i < kInputs; i++)
      check_sum(floats(inputs[size_t(i)]), group_.size(), rows, kHidden, i, DType::f16, own && group_.size() == 2);
    for (const Memory& m : inputs) ok(cudaMemset(m.data(), 0, m.bytes()), "fill");  // or the sums of sums would outgrow the type
    const auto input = [&](int i) { return view(inputs[size_t(i)].data(), rows, kHidden); };
    tell("all-reduce", rows, rows * kHidden * 2, backend, [&](int i) { comm.all_reduce(input(i)); });
    const Residual together(rows, kHidden), apart(rows, kHidden);
    const auto one = [&](int i) { comm.all_reduce_add_norm(backend, together.args(input(i), DType::f16)); };
    const auto two = [&](int i) { comm.all_reduce(input(i)), backend.add_norm(apart.args(input(i), DType::f16)); };
    const std::vector<float> random = numbers(group_.rank(), rows, kHidden, 0);
    for (const auto& run : {std::function<void(int)>(one), std::function<void(int)>(two)}) {
      ok(cudaMemcpy(inputs[0].data(), random.data(), inputs[0].bytes(), cudaMemcpyHostToDevice), "upload");
      run(0);
      backend.synchronize();
    }
    if (!together.same_as(apart)) std::printf("WRONG: add_norm of rank %d, %ld rows\n", group_.rank(), long(rows)), wrong++;
    ok(cudaMemset(inputs[0].data(), 0, inputs[0].bytes()), "fill");
    tell("  then add_norm", rows, rows * kHidden * 2, backend, two);
    tell("  with add_norm", rows, rows * kHidden * 2, backend, one);
  }
  void gather(CudaBackend& backend, Communicator& comm, int64_t rows) {
    const int ranks = group_.size();
    const int64_t part = (kVocab + ranks - 1) / ranks;
    const Memory mine(numbers(group_.rank(), rows, part, 1)), out(size_t(rows * (part * ranks + kPad)) * 4);
    const auto run = [&](int) { comm.all_gather_cols(view(out.data(), rows, part * ranks), view(mine.data(), rows, part)); };
    run(0);
    backend.synchronize();
    const auto got = floats(out);
    int bad = 0;
    for (int r = 0; r < ranks; r++) {
      const auto want = numbers(r, rows, part, 1);
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < part; j++)
          bad += got[size_t(i * (part * ranks + kPad) + r * part + j)] != want[size_t(i * (part + kPad) + j)];
    }
    if (bad) std::printf("WRONG: %d gathered, %ld rows\n", bad, long(rows)), wrong++;
    tell("all-gather", rows, rows * part * 4, backend, run);
  }
  template <class Op> void tell(const char* what, int64_t rows, int64_t bytes, CudaBackend& backend, const Op& op) {
    const auto replay = backend.record([&] {
      for (int i = 0; i < kTogether; i++) op(i % kInputs);
    });
    std::vector<double> times;
    for (int i = 0; i < 12; i++) {
      backend.synchronize();
      all_.arrive_and_wait();
      const auto begin = std::chrono::steady_clock::now();
      for (int k = 0; k < 5; k++) replay->run();
      backend.synchronize();
      if (i > 1)
        times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / 5 / kTogether);
    }
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    const double us = times[times.size() / 2];
    if (group_.rank() == 0)
      std::printf("%s of %5ld rows, %9ld bytes of each rank: %7.2f us, %6.1f GB/s\n", what, long(rows), long(bytes), us,
                  double(bytes) / us * 1e-3);
    std::fflush(stdout);
  }

  HostGroup& group_;
  std::barrier<>& all_;
  std::vector<int> members_;
};

int on_all_gpus(int ranks) {
  auto groups = make_thread_groups(ranks, 30);
  std::barrier<> all(ranks);
  std::vector<std::thread> threads;
  for (auto& group : groups)
    threads.emplace_back([&] {
      try {
        Rank(*group, all).run();
      } catch (const std::exception& e) {
        std::printf("rank %d: %s\n", group->rank(), e.what());
        std::fflush(stdout);
        std::_Exit(1);
      }
    });
  for (auto& t : threads) t.join();
  return wrong != 0;
}

/// One rank waits in a recorded step for another that does not come: it is told so in time, and both GPUs go on to work.
void check_fault(bool own) {
  constexpr double kTimeout = 2;
  const std::vector<int> members{0, 1};
  for (const bool late : {true, false}) {
    auto groups = make_thread_groups(2, kTimeout);
    std::vector<std::thread> threads;
    for (auto& group : groups)
      threads.emplace_back([&] {
        const int rank = group->rank();
        CudaBackend backend(rank, {.gpu = rank, .custom_all_reduce = own});
        const auto comm = backend.connect(*group, members, Channel::tensor_parallel, DType::f16);
        const Memory x(numbers(rank, 1, kHidden, 0));
        comm->all_reduce(view(x.data(), 1, kHidden));
        backend.synchronize();
        const auto step = backend.record([&] {
          for (int i = 0; i < 3; i++) comm->all_reduce(view(x.data(), 1, kHidden));
        });
        if (late && rank == 1) std::this_thread::sleep_for(std::chrono::duration<double>(2 * kTimeout));
        const auto begin = std::chrono::steady_clock::now();
        std::string said = "nothing";
        try {
          step->run();
          backend.synchronize();
        } catch (const Error& e) {
          said = e.what();
          group->abort(e.kind, said);
        }
        std::printf("%s, rank %d %s: %.1f s, %s\n", own ? "own" : "NCCL", rank, late ? "of a late one" : "after it",
                    std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), said.c_str());
        if ((said != "nothing") != late) wrong++;
      });
    for (auto& t : threads) t.join();
  }
}

/// All ranks' kernels side by side on one GPU, whose CTAs all fit at once; sums with an add_norm, of one row and of several by a CTA, are
/// checked against sums and then add_norm.
int on_one_gpu(int ranks) {
  constexpr int kMost = 3;  // CTAs of a sum with an add_norm
  constexpr int64_t kCols = 1000;
  constexpr size_t kCapacity = 131072;  // of 20 rows
  CudaBackend backend(0, {});
  std::deque<Memory> areas, cells;
  int* over = nullptr;
  ok(cudaHostAlloc(reinterpret_cast<void**>(&over), sizeof(int), cudaHostAllocMapped), "pinned memory");
  *over = 0;
  std::vector<Peers> peers(static_cast<size_t>(ranks));
  std::vector<cudaStream_t> streams(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; r++) {
    areas.emplace_back(3 * size_t(ranks) * kCapacity), cells.emplace_back(kExchangeCells * sizeof(uint4));
    ok(cudaStreamCreateWithFlags(&streams[size_t(r)], cudaStreamNonBlocking), "stream");
  }
  for (int r = 0; r < ranks; r++) {
    Peers& p = peers[size_t(r)];
    for (int o = 0; o < ranks; o++) p.areas[o] = areas[size_t(o)].data<char>();
    p.cells = cells[size_t(r)].data<uint4>(), p.over = over, p.rank = r, p.ranks = ranks, p.capacity = kCapacity,
    p.patience = 20'000'000'000;
    clear_peers(p, streams[size_t(r)]);
  }
  ok(cudaDeviceSynchronize(), "fill");
  for (const DType wire : {DType::f32, DType::f16, DType::bf16})
    for (const int64_t rows : {4, 1, 20, 2}) {
      std::deque<Memory> x, out;
      for (int r = 0; r < ranks; r++)
        x.emplace_back(numbers(r, rows, kCols, 3)), out.emplace_back(size_t(rows * (kCols * ranks + kPad)) * 4);
      const auto all = [&](const auto& run) {  // of one kernel: the first launch of another waits for what runs
        for (size_t r = 0; r < size_t(ranks); r++) run(r, Stream{.handle = streams[r]});
        ok(cudaDeviceSynchronize(), "exchange");
      };
      all([&](size_t r, const Stream& stream) {
        exchange_parts(peers[r], view(out[r].data(), rows, kCols * ranks), view(x[r].data(), rows, kCols), stream);
      });
      std::deque<Residual> together, apart;
      for (int r = 0; r < ranks; r++) together.emplace_back(rows, kCols), apart.emplace_back(rows, kCols);
      const auto args = [&](const std::deque<Residual>& of, size_t r) { return of[r].args(view(x[r].data(), rows, kCols), wire); };
      all([&](size_t r, const Stream& stream) { exchange_add_norm(peers[r], args(together, r), wire, stream, kMost); });
      all([&](size_t r, const Stream& stream) { exchange_sum(peers[r], view(x[r].data(), rows, kCols), wire, stream); });
      for (size_t r = 0; r < size_t(ranks); r++) backend.add_norm(args(apart, r));
      backend.synchronize();
      for (size_t r = 0; r < size_t(ranks); r++)
        if (!together[r].same_as(apart[r])) std::printf("WRONG: add_norm of rank %d, %ld rows\n", int(r), long(rows)), wrong++;
      const auto first = floats(out[0]);
      for (int r = 0; r < ranks; r++) {
        check_sum(floats(x[size_t(r)]), ranks, rows, kCols, 3, wire, true);
        const auto want = numbers(r, rows, kCols, 3), got = floats(out[size_t(r)]);
        int bad = 0;
        for (int64_t i = 0; i < rows; i++)
          for (int64_t j = 0; j < kCols; j++)
            bad += first[size_t(i * (kCols * ranks + kPad) + r * kCols + j)] != want[size_t(i * (kCols + kPad) + j)];
        for (int64_t i = 0; i < rows; i++)
          bad += std::memcmp(&got[size_t(i * (kCols * ranks + kPad))], &first[size_t(i * (kCols * ranks + kPad))],
                             size_t(kCols) * size_t(ranks) * 4) != 0;
        if (bad) std::printf("WRONG: %d gathered from rank %d\n", bad, r), wrong++;
      }
    }
  std::printf("%d ranks on one GPU: %s\n", ranks, wrong ? "WRONG" : *over ? "gave up" : "right");
  return wrong != 0 || *over != 0;
}

}  // namespace
}  // namespace neox::cuda::trial

int main(int argc, char** argv) {
  using namespace neox::cuda::trial;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc == 3 && std::strcmp(argv[1], "one") == 0) return on_one_gpu(std::atoi(argv[2]));
  int gpus = 0;
  ok(cudaGetDeviceCount(&gpus), "count the GPUs");
  if (gpus < 2) return std::printf("there are %d GPUs, expected 2 or more\n", gpus), 1;
  const int bad = on_all_gpus(gpus);
  for (const bool own : {true, false}) check_fault(own);
  return bad || wrong != 0;
}
