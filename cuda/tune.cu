// SPDX-License-Identifier: Apache-2.0
// Tuning: linear as the engine runs it, by each algorithm that cuBLASLt proposes, and by the kernel for few rows.
// What is timed is recorded as one graph over so many copies of the weights that none is in the L2 when its turn comes. An algorithm is
// made from its line of gemm_config.in, and dropped where its result is not that of cuBLASLt's own choice.
#include "tune.h"

#include <algorithm>
#include <cmath>

#include "backend/buffer.h"
#include "cuda_backend.h"
#include "device.cuh"
#include "linear.h"
#include "place.h"
#include "types.cuh"

namespace neox::cuda {
namespace {

constexpr size_t kCold = size_t(256) << 20;  // bytes of weights between two uses of the same ones
constexpr int kMostCopies = 128;             // smaller products than 2 MiB are of models that an L2 holds
constexpr int kProposals = 40, kFinalists = 4;
constexpr int kQuick = 3, kRounds = 11;  // replays: of a candidate, and of each finalist, taking turns
// With more rows operations are the limit (16 bits, 4.5 TB/s, 757 TFLOP/s: from about 170 on), and soon the power that the card may draw:
// what takes the least then shows only where each finalist runs by itself, and for longer than the card looks back.
constexpr int32_t kReadingRows = 160;
constexpr double kSettle = 80, kSustained = 80;  // milliseconds: before what is timed, and of that
constexpr double kWorthIt = 0.99;                // of the time without a choice: what is faster by less is noise
constexpr int kThreads = 256;

/// sums: [2], |a - b|^2 and |b|^2
template <class E> __global__ __launch_bounds__(kThreads) void difference_kernel(const E* a, const E* b, int64_t n, double* sums) {
  double difference = 0, norm = 0;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kThreads) {
    const double x = widen(a[i]), y = widen(b[i]);
    difference += (x - y) * (x - y), norm += y * y;
  }
  difference = reduce_sum(difference), norm = reduce_sum(norm);
  if (threadIdx.x == 0) atomicAdd(sums, difference), atomicAdd(sums + 1, norm);
}

/// Relative L2 that another order of summation, and rounding to the type, may make.
double tolerance(DType out) { return out == DType::f32 ? 1e-4 : out == DType::f16 ? 3e-3 : 2e-2; }

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + int64_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

int64_t padded(int64_t cols) { return (cols + 15) / 16 * 16 + 16; }  // as activations are
size_t whole(size_t bytes) { return (bytes + 255) / 256 * 256; }
int copies_of(size_t bytes) { return int(std::clamp<size_t>((kCold + bytes - 1) / bytes, 2, kMostCopies)); }

}  // namespace

class LinearTuner final : public Tuner {
 public:
  LinearTuner(int device, DType type, const std::vector<TuneCall>& calls, int32_t most_rows);
  ~LinearTuner() override {
    for (cudaEvent_t e : events_) cudaEventDestroy(e);
  }
  GemmPlace place() const override { return place_of(device_); }
  TunedCall tune(const TuneCall& call, int32_t rows) override;

 private:
  struct Candidate {
    GemmChoice choice;
    std::unique_ptr<Replay> replay;
    int products;  // in a replay
    double us = 0;
  };
  size_t bytes_of(const TunePart& p) const { return whole(size_t(p.n) * size_t(p.k) * size_of(type_)); }
  size_t bytes_of(const TuneCall& c) const {
    size_t bytes = 0;
    for (const TunePart& p : c.parts) bytes += bytes_of(p);
    return bytes;
  }
  Linear weight(const TunePart& p, size_t at) const;
  LinearArgs args(const TuneCall& c, size_t i, int32_t rows, const Linear& w) const;
  /// The product of one part, with the copy-th weights.
  void run_part(const TuneCall& c, size_t i, int32_t rows, int copy);
  /// body for the parts of the call, with the copy-th weights of all.
  template <class Body> auto with_call(const TuneCall& c, int32_t rows, int copy, Body body) const;
  template <class Body> Candidate recorded(const GemmChoice& choice, size_t bytes, Body body);
  double time(const Candidate& c, int replays = 1);
  void time_by_turns(std::vector<Candidate>& candidates);
  void time_alone(Candidate& c);
  void compare(std::vector<Candidate>& candidates, int32_t rows);
  void use(const GemmKey& key, const GemmChoice& choice);
  void use(const TuneCall& c, int32_t rows, const TunedCall& tuned);
  void clear_out() { check(cudaMemsetAsync(out_.data(), 0, out_.bytes(), backend_.stream_), "clear memory"); }
  /// Whether the part's product is what reference_ holds.
  bool agrees(const TuneCall& c, size_t i, int32_t rows);
  std::vector<Candidate> candidates(const TuneCall& c, size_t i, int32_t rows);
  TunedPart tune_part(const TuneCall& c, size_t i, int32_t rows);
  void tune_whole(const TuneCall& c, int32_t rows, TunedCall& tuned);

  const int device_;
  const DType type_;
  CudaBackend backend_;
  size_t x_step_ = 0, out_step_ = 0;  // bytes from the first part's to the second's
  Buffer weights_, bias_, x_;
  Buffer out_, reference_;
  Buffer sums_;  // [2] f64
  cudaEvent_t events_[2] = {};
};

LinearTuner::LinearTuner(int device, DType type, const std::vector<TuneCall>& calls, int32_t most_rows)
    : device_(device), type_(type), backend_(device, {}) {
  size_t weights = 0, outputs = 0;
  for (const TuneCall& c : calls) {
    weights = std::max(weights, size_t(copies_of(bytes_of(c))) * bytes_of(c));
    for (const TunePart& p : c.parts) {
      weights = std::max(weights, size_t(copies_of(bytes_of(p))) * bytes_of(p));
      x_step_ = std::max(x_step_, whole(size_t(most_rows) * size_t(padded(p.k)) * size_of(type)));
      out_step_ = std::max(out_step_, whole(size_t(most_rows) * size_t(padded(p.n)) * size_of(p.out)));
      outputs = std::max(outputs, size_t(p.n));
    }
  }
  weights_ = Buffer(backend_, weights), bias_ = Buffer(backend_, whole(outputs * size_of(type))), x_ = Buffer(backend_, 2 * x_step_);
  out_ = Buffer(backend_, 2 * out_step_), reference_ = Buffer(backend_, out_step_), sums_ = Buffer(backend_, 2 * sizeof(double));
  uint64_t key = 1;
  for (const Buffer* b : {&weights_, &bias_, &x_}) {
    constexpr int64_t kRow = 64;  // in rows of any length that divides all
    backend_.pack_random(b->data(), int64_t(b->bytes() / size_of(type)) / kRow, kRow, {.key = key++, .first = 0, .row = kRow}, type);
  }
  backend_.synchronize();
  for (cudaEvent_t& e : events_) check(cudaEventCreate(&e), "create an event");
}

Linear LinearTuner::weight(const TunePart& p, size_t at) const {
  Linear w;
  w.weight = {.data = weights_.data<char>() + at, .rows = p.n, .cols = p.k, .ld = p.k, .dtype = type_};
  if (p.bias) w.bias = {.data = bias_.data(), .rows = 1, .cols = p.n, .ld = p.n, .dtype = type_};
  return w;
}

LinearArgs LinearTuner::args(const TuneCall& c, size_t i, int32_t rows, const Linear& w) const {
  const TunePart& p = c.parts[i];
  return {.out = {.data = out_.data<char>() + (c.sum ? 0 : i * out_step_), .rows = rows, .cols = p.n, .ld = padded(p.n), .dtype = p.out},
          .x = {.data = x_.data<char>() + i * x_step_, .rows = rows, .cols = p.k, .ld = padded(p.k), .dtype = type_},
          .w = w,
          .act = p.act};
}

void LinearTuner::run_part(const TuneCall& c, size_t i, int32_t rows, int copy) {
  const Linear w = weight(c.parts[i], size_t(copy) * bytes_of(c.parts[i]));
  const auto sum = c.sum && i > 0 ? Gemm::Sum::added : Gemm::Sum::fresh;
  backend_.gemm_->run(library_part(args(c, i, rows, w), sum).call);
}

template <class Body> auto LinearTuner::with_call(const TuneCall& c, int32_t rows, int copy, Body body) const {
  const size_t at = size_t(copy) * bytes_of(c);
  const Linear first = weight(c.parts[0], at);
  if (c.parts.size() == 1) return body({args(c, 0, rows, first)});
  const Linear second = weight(c.parts[1], at + bytes_of(c.parts[0]));
  return body({args(c, 0, rows, first), args(c, 1, rows, second)});
}

/// body(copy) for all copies of so many bytes, after one outside of the recording: what a product makes at its first use is there then.
template <class Body> LinearTuner::Candidate LinearTuner::recorded(const GemmChoice& choice, size_t bytes, Body body) {
  const int copies = copies_of(bytes);
  body(0);
  auto replay = backend_.record([&] {
    for (int copy = 0; copy < copies; copy++) body(copy);
  });
  return {.choice = choice, .replay = std::move(replay), .products = copies};
}

/// Microseconds of a product. A replay before keeps the GPU busy until all that is timed is in its queue.
double LinearTuner::time(const Candidate& c, int replays) {
  c.replay->run();
  check(cudaEventRecord(events_[0], backend_.stream_), "record an event");
  for (int i = 0; i < replays; i++) c.replay->run();
  check(cudaEventRecord(events_[1], backend_.stream_), "record an event");
  check(cudaEventSynchronize(events_[1]), "measure");
  float ms = 0;
  check(cudaEventElapsedTime(&ms, events_[0], events_[1]), "measure");
  return double(ms) * 1000 / c.products / replays;
}

void LinearTuner::time_by_turns(std::vector<Candidate>& candidates) {
  std::vector<std::vector<double>> times(candidates.size());
  for (int round = 0; round < kRounds; round++)
    for (size_t i = 0; i < candidates.size(); i++) times[i].push_back(time(candidates[i]));
  for (size_t i = 0; i < candidates.size(); i++) candidates[i].us = median(times[i]);
}

/// With the GPU to itself, once it has settled at this candidate's power.
void LinearTuner::time_alone(Candidate& c) {
  const double replay_ms = time(c) * c.products / 1000;
  time(c, int(kSettle / replay_ms) + 1);
  c.us = time(c, int(kSustained / replay_ms) + 1);
}

void LinearTuner::compare(std::vector<Candidate>& candidates, int32_t rows) {
  if (rows <= kReadingRows) return time_by_turns(candidates);
  for (Candidate& c : candidates) time_alone(c);
}

void LinearTuner::use(const GemmKey& key, const GemmChoice& choice) {
  GemmConfig config;
  config.lines[key].choice = choice;
  backend_.gemm_->use(std::move(config));
}

bool LinearTuner::agrees(const TuneCall& c, size_t i, int32_t rows) {
  const TunePart& p = c.parts[i];
  clear_out();
  run_part(c, i, rows, 0);
  const Tensor out = args(c, i, rows, weight(p, 0)).out;
  check(cudaMemsetAsync(sums_.data(), 0, sums_.bytes(), backend_.stream_), "clear memory");
  dispatch(p.out, [&](auto t) {
    using E = Element<t>;
    const Launch l{.name = "compare products", .grid = 1024, .block = kThreads, .stream = {backend_.stream_.handle}};
    launch(l, difference_kernel<E>, static_cast<const E*>(out.data), reference_.data<const E>(), rows * out.ld, sums_.data<double>());
  });
  double sums[2];
  backend_.download(sums, sums_.data(), sizeof sums);
  backend_.synchronize();
  return std::sqrt(sums[0] / sums[1]) <= tolerance(p.out);
}

/// cuBLASLt's own choice, and all that may be faster.
std::vector<LinearTuner::Candidate> LinearTuner::candidates(const TuneCall& c, size_t i, int32_t rows) {
  const TunePart& p = c.parts[i];
  const GemmKey key{.type = type_, .n = p.n, .k = p.k, .rows = rows};
  const auto body = [&](int copy) { run_part(c, i, rows, copy); };
  const Linear w = weight(p, 0);
  const LinearArgs a = args(c, i, rows, w);
  use(key, {});
  clear_out();
  run_part(c, i, rows, 0);
  check(
      cudaMemcpyAsync(reference_.data(), a.out.data, size_t(rows * a.out.ld) * size_of(p.out), cudaMemcpyDeviceToDevice, backend_.stream_),
      "copy a product");
  const auto proposals = backend_.gemm_->propose(library_part(a, Gemm::Sum::fresh).call, kProposals);
  std::vector<Candidate> found;
  found.push_back(recorded({}, bytes_of(p), body));
  found[0].us = std::min(time(found[0]), time(found[0]));
  double best = found[0].us;
  for (const GemmChoice& choice : proposals) {
    use(key, choice);
    if (!agrees(c, i, rows) || backend_.gemm_->use_so_far().hits == 0) continue;  // wrong, or not accepted
    Candidate next = recorded(choice, bytes_of(p), body);
    if (time(next) > 2 * best) continue;
    std::vector<double> times(kQuick);
    for (double& t : times) t = time(next);
    next.us = median(times);
    best = std::min(best, next.us);
    found.push_back(std::move(next));
  }
  return found;
}

TunedPart LinearTuner::tune_part(const TuneCall& c, size_t i, int32_t rows) {
  std::vector<Candidate> found = candidates(c, i, rows);
  std::sort(found.begin() + 1, found.end(), [](const Candidate& a, const Candidate& b) { return a.us < b.us; });
  if (found.size() > kFinalists + 1) found.erase(found.begin() + kFinalists + 1, found.end());
  compare(found, rows);
  const auto best = std::min_element(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) { return a.us < b.us; });
  if (best->us >= kWorthIt * found[0].us) return {.library_us = found[0].us, .tuned_us = found[0].us, .choice = {}};
  return {.library_us = found[0].us, .tuned_us = best->us, .choice = best->choice};
}

void LinearTuner::use(const TuneCall& c, int32_t rows, const TunedCall& tuned) {
  GemmConfig config;
  for (size_t i = 0; i < c.parts.size(); i++)
    config.lines[{.type = type_, .n = c.parts[i].n, .k = c.parts[i].k, .rows = rows}].choice = tuned.parts[i].choice;
  backend_.gemm_->use(std::move(config));
}

/// Both parts by cuBLASLt's own choices and as they are chosen, which has to be faster side by side as well; and by the kernel for few
/// rows, which then has to be beaten.
void LinearTuner::tune_whole(const TuneCall& c, int32_t rows, TunedCall& tuned) {
  const auto library = [&](std::initializer_list<LinearArgs> parts) { library_linear(parts, *backend_.gemm_, backend_.stream_); };
  const auto own = [&](std::initializer_list<LinearArgs> parts) { backend_.small_linear_->run(parts); };
  TunedCall plain = tuned;
  for (TunedPart& part : plain.parts) part.choice = {}, part.tuned_us = part.library_us;
  std::vector<Candidate> ways;
  for (const TunedCall* way : {&plain, &tuned}) {
    use(c, rows, *way);
    ways.push_back(recorded({}, bytes_of(c), [&](int copy) { with_call(c, rows, copy, library); }));
  }
  const auto taken = [&](std::initializer_list<LinearArgs> parts) { return backend_.small_linear_->takes(parts); };
  if (with_call(c, rows, 0, taken)) ways.push_back(recorded({}, bytes_of(c), [&](int copy) { with_call(c, rows, copy, own); }));
  compare(ways, rows);
  if (ways[1].us >= kWorthIt * ways[0].us) tuned = plain;
  tuned.tuned_us = std::min(ways[0].us, ways[1].us);
  if (ways.size() == 2) return;
  tuned.own_us = ways[2].us;
  if (tuned.tuned_us >= kWorthIt * tuned.own_us)
    for (TunedPart& part : tuned.parts) part.choice = {.algorithm = GemmChoice::kOwn};
}

TunedCall LinearTuner::tune(const TuneCall& c, int32_t rows) {
  TunedCall tuned;
  for (size_t i = 0; i < c.parts.size(); i++) tuned.parts.push_back(tune_part(c, i, rows));
  tune_whole(c, rows, tuned);
  return tuned;
}

std::unique_ptr<Tuner> make_tuner(int device, DType type, const std::vector<TuneCall>& calls, int32_t most_rows) {
  return std::make_unique<LinearTuner>(device, type, calls, most_rows);
}

}  // namespace neox::cuda
