// SPDX-License-Identifier: Apache-2.0
// FasterTransformer's gpt_gemm: times the matrix products of a model on a GPU and writes the fastest choices to gemm_config.in.
// This version has no tuner: it checks the arguments and says what is missing, and writes no file.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "backend/backend.h"
#include "base/check.h"
#include "base/text_file.h"

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

void check_arguments(int argc, char** argv) {
  require(argc - 1 >= kNeeded && argc - 1 <= static_cast<int>(kArguments.size()), "expected ", kNeeded, " to ", kArguments.size(),
          " arguments, found ", argc - 1);
  std::array<int32_t, kArguments.size()> values{};
  values[8] = 1;
  for (int i = 1; i < argc; ++i) values[i - 1] = parse(kArguments[i - 1], argv[i]);
  for (int i : {3, 5})
    require(values[i] % values[8] == 0, kArguments[i].name, ": expected a multiple of tensor_para_size ", values[8], ", found ", values[i]);
}

int main_checked(int argc, char** argv) {
  if (argc == 2 && (std::strcmp(argv[1], "-h") == 0 || std::strcmp(argv[1], "--help") == 0)) {
    print_usage(stdout);
    return 0;
  }
  try {
    check_arguments(argc, argv);
  } catch (const Error& e) {
    std::fprintf(stderr, "gpt_gemm: %s\n", e.what());
    print_usage(stderr);
    return kBadArguments;
  }
  make_backend({.device = "cuda"});  // throws where there is none, and says why
  fail(ErrorKind::unsupported, "tuning is not in this version, so no gemm_config.in was written; the engine does not need one");
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
