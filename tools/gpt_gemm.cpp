// SPDX-License-Identifier: Apache-2.0
// FasterTransformer's gpt_gemm: times the matrix products of a model on a GPU and writes the fastest choices to gemm_config.in.
// They are the products that the engine makes (model.cpp) of a rank of tensor_para_size, at every number of rows that it records steps of,
// and some more, up to batch_size * beam_width * max_input_len or what one step takes.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backend/tune.h"
#include "base/check.h"
#include "base/file.h"
#include "base/gemm_config.h"
#include "base/text_file.h"
#include "engine/step.h"
#include "neox/machine.h"

namespace neox {
namespace {

constexpr int kNotTuned = 1;      // the arguments were right, but nothing could be tuned
constexpr int kBadArguments = 2;  // FasterTransformer exited 0 here, so that a script went on without the file it had asked for

struct Argument {
  const char* name;
  int32_t minimum, maximum;
  const char* meaning;
};
constexpr int32_t kAny = INT32_MAX;
constexpr std::array<Argument, 10> kArguments{{
    {"batch_size", 1, kAny, "requests in a batch"},
    {"beam_width", 1, kAny, "beams of a request, 1 for sampling"},
    {"max_input_len", 1, kAny, "tokens of the longest prompt"},
    {"head_num", 1, kAny, "attention heads of the whole model"},
    {"size_per_head", 1, kAny, "dimensions of a head"},
    {"inter_size", 1, kAny, "dimensions between the two products of the MLP, often 4 * head_num * size_per_head"},
    {"vocab_size", 1, kAny, "rows of the embedding"},
    {"data_type", 0, 2, "0 = fp32, 1 = fp16, 2 = bf16"},
    {"tensor_para_size", 1, kAny, "ranks that share each layer, 1 if left out; divides head_num and inter_size"},
    {"is_append", 0, 1, "0 = a new gemm_config.in (if left out), 1 = add to the one that is there"},
}};
constexpr int kNeeded = 8;
struct Arguments {
  int32_t batch, beams, length, heads, head_dim, inner, vocab;
  DType type;
  int32_t ranks;
  bool append;
  int64_t hidden() const { return int64_t(heads) * head_dim; }
};
constexpr int32_t kMostTokens = 4096, kMostSeqs = 256, kLogitRows = 256;  // of a step on a GPU, unless the engine is told otherwise
constexpr const char* kFile = "gemm_config.in";

void print_usage(std::FILE* to) {
  std::fprintf(to, "usage: gpt_gemm");
  for (size_t i = 0; i < kArguments.size(); ++i) std::fprintf(to, i < kNeeded ? " %s" : " [%s]", kArguments[i].name);
  std::fprintf(to, "\n");
  for (const Argument& a : kArguments) std::fprintf(to, "  %-17s %s\n", a.name, a.meaning);
  std::fprintf(to, "GPT-NeoX-20B on two GPUs: gpt_gemm 8 1 32 64 96 24576 50432 1 2\n");
}

int32_t parse(const Argument& argument, const char* text) {
  const char* const end = text + std::strlen(text);
  int32_t value = 0;
  const auto [stop, error] = std::from_chars(text, end, value);
  const bool good = error == std::errc() && stop == end && value >= argument.minimum && value <= argument.maximum;
  const std::string limit =
      argument.maximum == kAny ? concat("of at least ", argument.minimum) : concat("from ", argument.minimum, " to ", argument.maximum);
  require(good, argument.name, ": expected an integer ", limit, ", found ", quoted(text));
  return value;
}

Arguments read_arguments(int argc, char** argv) {
  require(argc - 1 >= kNeeded && argc - 1 <= static_cast<int>(kArguments.size()), "expected ", kNeeded, " to ", kArguments.size(),
          " arguments, found ", argc - 1);
  std::array<int32_t, kArguments.size()> v{};
  v[8] = 1;
  for (int i = 1; i < argc; ++i) v[i - 1] = parse(kArguments[i - 1], argv[i]);
  for (int i : {3, 5}) require(v[i] % v[8] == 0, kArguments[i].name, ": expected a multiple of tensor_para_size ", v[8], ", found ", v[i]);
  const Arguments a{v[0], v[1], v[2], v[3], v[4], v[5], v[6], DType(v[7]), v[8], v[9] == 1};
  require(3 * a.hidden() <= INT32_MAX, "head_num * size_per_head: expected at most ", INT32_MAX / 3, ", found ", a.hidden());
  return a;
}

/// The calls of linear that Model makes on each rank. The head's products come by kLogitRows rows.
std::vector<TuneCall> calls_of(const Arguments& a) {
  const auto h = int32_t(a.hidden()), inner = a.inner / a.ranks, heads = h / a.ranks,
             vocab = int32_t((int64_t(a.vocab) + a.ranks - 1) / a.ranks);
  return {{.parts = {{.name = "qkv", .n = 3 * heads, .k = h, .out = a.type, .bias = true},
                     {.name = "up", .n = inner, .k = h, .out = a.type, .bias = true, .act = Act::gelu_tanh}}},
          {.parts = {{.name = "out", .n = h, .k = heads, .out = DType::f32}, {.name = "down", .n = h, .k = inner, .out = DType::f32}},
           .sum = true},
          {.parts = {{.name = "head", .n = vocab, .k = h, .out = DType::f32}}}};
}

/// Numbers of rows, ascending: between two of them an engine takes the larger one's choices.
std::set<int32_t> rows_of(const Arguments& a) {
  const int64_t decode = int64_t(a.batch) * a.beams, all = decode > kMostTokens ? decode : decode * a.length;
  const auto most = int32_t(std::min<int64_t>(all, kMostTokens));
  std::set<int32_t> rows{int32_t(std::min<int64_t>(decode, most)), most};
  const StepLimits limits{.tokens = kMostTokens, .seqs = kMostSeqs, .blocks_per_seq = 1, .block_size = 16, .vocab = a.vocab};
  for (const StepShape& shape : shapes_to_record(limits, kLogitRows)) rows.insert(shape.tokens);
  for (int32_t r = 256; r <= kMostTokens; r += r < 2048 ? 256 : 512) rows.insert(r);
  rows.erase(rows.upper_bound(most), rows.end());
  return rows;
}

/// What a time is measured against, of the same GPU in the same run.
struct Limits {
  double read, multiply;  // bytes and FLOP in a microsecond
  double us(double bytes, double flops) const { return std::max(bytes / read, flops / multiply); }
};
double bytes_of(const TunePart& p, DType type, double rows, bool added) {
  const auto size = double(size_of(type)), n = double(p.n), k = double(p.k);
  return (n * k + rows * k) * size + rows * n * double(size_of(p.out)) * (added ? 2 : 1);
}
double flops_of(const TunePart& p, double rows) { return 2. * rows * p.n * p.k; }

void print_time(double us) {
  if (us > 0) std::printf(" %10.1f", us);
  else std::printf(" %10s", "");
}
void print_row(int32_t rows, const std::string& name, const std::array<double, 3>& us, double limit, const char* chosen) {
  std::printf("%5d  %-10s", rows, name.c_str());
  for (const double t : us) print_time(t);
  const double best = us[2] > 0 ? std::min(us[1], us[2]) : us[1];
  std::printf(" %8.0f %%  %s\n", 100 * limit / best, chosen);
}

void print_call(const TuneCall& c, const TunedCall& t, DType type, int32_t rows, const Limits& limits) {
  double bytes = 0, flops = 0, library = 0;
  const auto chosen = [](const TunedPart& part) {
    return part.choice.algorithm == GemmChoice::kOwn ? "own" : part.choice.algorithm == GemmChoice::kDefault ? "default" : "tuned";
  };
  for (size_t i = 0; i < c.parts.size(); i++) {
    const double b = bytes_of(c.parts[i], type, rows, c.sum && i > 0), f = flops_of(c.parts[i], rows);
    const double own = c.parts.size() == 1 ? t.own_us : 0;
    print_row(rows, c.parts[i].name, {t.parts[i].library_us, t.parts[i].tuned_us, own}, limits.us(b, f), chosen(t.parts[i]));
    bytes += b, flops += f, library += t.parts[i].library_us;
  }
  if (c.parts.size() == 2)
    print_row(rows, c.parts[0].name + (c.sum ? " + " : " | ") + c.parts[1].name, {library, t.tuned_us, t.own_us}, limits.us(bytes, flops),
              "");
  std::fflush(stdout);
}

void add_lines(GemmConfig& config, const Arguments& a, const TuneCall& c, const TunedCall& t, int32_t rows) {
  double all = 0;
  for (const TunePart& p : c.parts) all += flops_of(p, rows);
  const int32_t decode = int32_t(std::min<int64_t>(int64_t(a.batch) * a.beams, INT32_MAX));
  for (size_t i = 0; i < c.parts.size(); i++) {
    const bool own = t.parts[i].choice.algorithm == GemmChoice::kOwn;  // then its share of the one launch
    const double us = own ? t.own_us * flops_of(c.parts[i], rows) / all : t.parts[i].tuned_us;
    config.lines[{.type = a.type, .n = c.parts[i].n, .k = c.parts[i].k, .rows = rows}] = {.batch = decode,
                                                                                          .length = rows > decode ? a.length : 1,
                                                                                          .heads = a.heads,
                                                                                          .head_dim = a.head_dim,
                                                                                          .choice = t.parts[i].choice,
                                                                                          .milliseconds = us / 1000};
  }
}

/// A file that replaces another at once, when it is whole; opened first, so that what cannot be written is known before the work.
class NewFile {
 public:
  explicit NewFile(const std::string& path) : path_(path), draft_(concat(path, ".", getpid())), out_(draft_, std::ios::binary) { check(); }
  ~NewFile() { std::remove(draft_.c_str()); }
  NewFile(const NewFile&) = delete;
  void write(const std::string& text) {
    out_ << text << std::flush;
    check();
    if (std::rename(draft_.c_str(), path_.c_str()) != 0) fail(ErrorKind::runtime, path_, ": cannot be replaced");
  }

 private:
  void check() {
    if (!out_) fail(ErrorKind::runtime, path_, ": cannot be written in the current directory");
  }
  const std::string path_, draft_;
  std::ofstream out_;
};

int tune(const Arguments& a) {
  const std::vector<TuneCall> calls = calls_of(a);
  const std::set<int32_t> rows = rows_of(a);
  const std::unique_ptr<Tuner> tuner = make_tuner(a.type, calls, *rows.rbegin());
  GemmConfig config{.place = tuner->place(), .lines = {}};
  if (a.append && file_exists(kFile)) {
    config = GemmConfig::read(kFile);
    config.require_place(tuner->place(), kFile);
  }
  NewFile file(kFile);
  const Limits limits{.read = gpu_read_bandwidth() * 1e-6, .multiply = gpu_matmul_peak(name_of(a.type)) * 1e-6};
  std::printf("%s, driver %s, cuBLASLt %s; reads %.2f TB/s, multiplies %s at %.1f TFLOP/s\n", config.place.gpu.c_str(),
              config.place.driver.c_str(), config.place.cublaslt.c_str(), limits.read * 1e-6, name_of(a.type), limits.multiply * 1e-6);
  std::printf("microseconds, weights read from memory; | and +: both products of a call\n%5s  %-10s %10s %10s %10s %10s  %s\n", "rows",
              "product", "cuBLASLt", "tuned", "own", "of limit", "chosen");
  for (const int32_t r : rows)
    for (const TuneCall& call : calls) {
      if (call.parts[0].name == "head" && r > kLogitRows) continue;
      const TunedCall tuned = tuner->tune(call, r);
      print_call(call, tuned, a.type, r, limits);
      add_lines(config, a, call, tuned, r);
    }
  file.write(config.text());
  std::printf("%s: %zu lines\n", kFile, config.lines.size());
  return 0;
}

int main_checked(int argc, char** argv) {
  if (argc == 2 && (std::strcmp(argv[1], "-h") == 0 || std::strcmp(argv[1], "--help") == 0)) {
    print_usage(stdout);
    return 0;
  }
  Arguments arguments{};
  try {
    arguments = read_arguments(argc, argv);
  } catch (const Error& e) {
    std::fprintf(stderr, "gpt_gemm: %s\n", e.what());
    print_usage(stderr);
    return kBadArguments;
  }
  return tune(arguments);
}

}  // namespace
}  // namespace neox

int main(int argc, char** argv) {
  try {
    return neox::main_checked(argc, argv);
  } catch (const std::exception& e) {
    std::string line = e.what();
    std::replace(line.begin(), line.end(), '\n', ' ');
    std::fprintf(stderr, "gpt_gemm: %s\n", line.c_str());
    return neox::kNotTuned;
  }
}
