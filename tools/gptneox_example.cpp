// SPDX-License-Identifier: Apache-2.0
// FasterTransformer's gptneox_example on this engine: reads its ini and csv files, prints its lines, writes its `out` file.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/ini.h"
#include "base/text_file.h"
#include "base/token_csv.h"
#include "neox/engine.h"

namespace neox {
namespace {

namespace fs = std::filesystem;
using Rows = std::vector<std::vector<int32_t>>;

constexpr char kInstance[] = "ft_instance_hyperparameter";
constexpr char kRequest[] = "request";
constexpr size_t kMostIds = std::numeric_limits<int32_t>::max();  // in `out`

/// What the ini asks for.
struct Job {
  std::string model_name, model_dir, dtype;
  int32_t batch_size = 0;  // 0 = the lines of start_ids.csv
  int32_t output_len = 0, end_id = 0;
  int32_t tensor_parallel = 1, pipeline_parallel = 1;
  SamplingParams sampling;
};

void warn(const std::string& message) { std::fprintf(stderr, "[WARNING] %s\n", message.c_str()); }

int32_t at_least(const Ini& ini, const char* section, const char* key, int32_t minimum) {
  const int32_t value = ini.integer(section, key);
  if (value < minimum) ini.reject(section, key, concat("an integer of at least ", minimum));
  return value;
}

/// A key that FasterTransformer knew and this version does nothing with: any value but the one that does nothing is refused.
void only(const Ini& ini, const std::string& section, const char* key, double neutral, const char* missing) {
  if (ini.number_or(section, key, neutral) == neutral) return;
  ini.reject(section, key, concat(neutral, ", because ", missing, " not in this version"));
}

void warn_of_unknown(const Ini& ini, const std::string& section, std::initializer_list<std::string_view> known) {
  for (const std::string& key : ini.keys(section)) {
    if (std::find(known.begin(), known.end(), key) == known.end())
      warn(concat(ini.file(), ": [", printable(section), "] ", printable(key), " is no key that this program reads, so it does nothing"));
  }
}

/// In the ini's folder if it is there; else as FasterTransformer read it, from the current directory.
std::string resolve(const Ini& ini, const std::string& path) {
  const fs::path beside = fs::path(ini.file()).parent_path() / path;
  std::error_code ignored;
  return fs::exists(beside, ignored) ? beside.string() : path;
}

void refuse_ft_folder(const Ini& ini, const std::string& dir) {
  std::error_code ignored;
  for (const char* mark : {"config.ini", "1-gpu"}) {
    if (fs::exists(fs::path(dir) / mark, ignored))
      fail(ErrorKind::unsupported, ini.file(), ": [", kInstance, "] model_dir: ", dir, " holds ", mark,
           ", so it is a FasterTransformer checkpoint; this version reads HuggingFace folders only (config.json and *.safetensors)");
  }
}

std::string read_dtype(const Ini& ini) {
  const std::string name = ini.text(kInstance, "data_type");
  if (name == "fp32") return "float32";
  if (name == "fp16") return "float16";
  if (name == "bf16") return "bfloat16";
  ini.reject(kInstance, "data_type", "fp32, fp16 or bf16");
}

/// FasterTransformer's rules: top_k and top_p both 0 is greedy, either of them 0 is that filter off, and every row has seed 0.
SamplingParams read_sampling(const Ini& ini) {
  only(ini, kRequest, "repetition_penalty", 1, "repetition penalties are");
  only(ini, kRequest, "presence_penalty", 0, "presence penalties are");
  only(ini, kRequest, "len_penalty", 0, "beam search is");
  only(ini, kRequest, "beam_search_diversity_rate", 0, "beam search is");
  if (ini.integer(kRequest, "beam_width") != 1) ini.reject(kRequest, "beam_width", "1, because beam search is not in this version");

  SamplingParams p;
  p.seed = 0;
  p.top_k = at_least(ini, kRequest, "top_k", 0);
  const auto top_p = static_cast<float>(ini.number(kRequest, "top_p"));
  if (top_p < 0 || top_p > 1) ini.reject(kRequest, "top_p", "a number from 0 to 1");
  p.top_p = top_p > 0 ? top_p : 1.0f;
  const auto temperature = static_cast<float>(ini.number(kRequest, "temperature"));
  if (temperature != 0 && (temperature < 0.001f || temperature > 1000))
    ini.reject(kRequest, "temperature", "0 or a number from 0.001 to 1000");
  p.temperature = p.top_k == 0 && top_p == 0 ? 0.0f : temperature;
  p.max_tokens = at_least(ini, kRequest, "request_output_len", 1);
  p.min_tokens = ini.has(kRequest, "min_length") ? std::min(at_least(ini, kRequest, "min_length", 0), p.max_tokens) : 0;
  return p;
}

/// FasterTransformer's rule: under mpirun the tensor ranks are what the pipeline leaves of the world. Without it the ranks are threads.
void read_ranks(const Ini& ini, int world, Job& job) {
  job.tensor_parallel = at_least(ini, kInstance, "tensor_para_size", 1);
  job.pipeline_parallel = at_least(ini, kInstance, "pipeline_para_size", 1);
  if (world == 1 || int64_t(job.tensor_parallel) * job.pipeline_parallel == world) return;
  if (world % job.pipeline_parallel != 0) ini.reject(kInstance, "pipeline_para_size", concat("a divisor of the ", world, " MPI ranks"));
  job.tensor_parallel = world / job.pipeline_parallel;
  std::printf("[INFO] Setting tensor_para_size to %d\n", job.tensor_parallel);
}

Job read_job(const Ini& ini, int world) {
  Job job;
  read_ranks(ini, world, job);
  job.dtype = read_dtype(ini);
  job.model_name = ini.text(kInstance, "model_name");
  job.model_dir = resolve(ini, ini.text(kInstance, "model_dir"));
  refuse_ft_folder(ini, job.model_dir);

  job.sampling = read_sampling(ini);
  job.batch_size = at_least(ini, kRequest, "request_batch_size", 0);
  job.output_len = job.sampling.max_tokens;

  only(ini, job.model_name, "prompt_learning_type", 0, "prompt learning is");
  only(ini, job.model_name, "num_tasks", 0, "prompt learning is");
  job.end_id = ini.integer(job.model_name, "end_id");
  job.sampling.ignore_eos = true;  // end_id belongs to the request, and alone ends it
  job.sampling.stop_token_ids = {job.end_id};

  // enable_custom_all_reduce has no say on CPUs, nor has prompt_learning_start_id without prompt learning.
  warn_of_unknown(ini, kInstance,
                  {"data_type", "enable_custom_all_reduce", "tensor_para_size", "pipeline_para_size", "model_name", "model_dir"});
  warn_of_unknown(ini, kRequest,
                  {"beam_width", "top_k", "top_p", "temperature", "repetition_penalty", "presence_penalty", "min_length", "len_penalty",
                   "beam_search_diversity_rate", "request_batch_size", "request_output_len"});
  warn_of_unknown(ini, job.model_name,
                  {"head_num", "size_per_head", "vocab_size", "decoder_layers", "rotary_embedding", "start_id", "end_id", "inter_size",
                   "use_gptj_residual", "prompt_learning_start_id", "prompt_learning_type", "num_tasks"});
  return job;
}

/// What the ini says of the model must be what was loaded: FasterTransformer trusted it and read the files to that shape.
void check_model(const Ini& ini, const Job& job, const EngineInfo& info) {
  const std::pair<const char*, int32_t> facts[] = {{"head_num", info.heads},
                                                   {"size_per_head", info.head_dim},
                                                   {"inter_size", info.intermediate},
                                                   {"vocab_size", info.vocab},
                                                   {"decoder_layers", info.layers},
                                                   {"rotary_embedding", info.rotary_dim},
                                                   {"use_gptj_residual", info.parallel_residual ? 1 : 0}};
  for (const auto& [key, value] : facts) {
    if (ini.integer_or(job.model_name, key, value) != value)
      ini.reject(job.model_name, key, concat(value, ", which is what the checkpoint ", job.model_dir, " has"));
  }
  for (const char* key : {"start_id", "end_id"}) {
    const int32_t id = ini.integer_or(job.model_name, key, 0);
    if (id < 0 || id >= info.vocab) ini.reject(job.model_name, key, concat("a token id below the vocabulary's ", info.vocab));
  }
  const auto& eos = info.eos_token_ids;
  if (!eos.empty() && std::find(eos.begin(), eos.end(), job.end_id) == eos.end())
    warn(concat(ini.file(), ": [", job.model_name, "] end_id is ", job.end_id, ", but the checkpoint's end-of-text id is ", eos.front()));
}

struct Batch {
  Rows prompts;
  size_t width = 0;  // ids in a line of `out`: the longest line of the file, whether the batch has it or not, and the new tokens
};

/// The prompts beside the ini, brought to the batch's size.
Batch read_batch(const Ini& ini, const Job& job, const EngineInfo& info) {
  const fs::path folder = fs::path(ini.file()).parent_path();
  std::error_code ignored;
  for (const char* name : {"bad_words.csv", "stop_words.csv"}) {
    if (fs::exists(folder / name, ignored))
      fail(ErrorKind::unsupported, (folder / name).string(), ": word lists are not in this version; move the file away to run without it");
  }
  const std::string file = (folder / "start_ids.csv").string();
  Batch batch{.prompts = read_token_csv(file)};
  const size_t lines = batch.prompts.size();
  const size_t rows = job.batch_size == 0 ? lines : static_cast<size_t>(job.batch_size);
  size_t longest = 0;
  for (size_t i = 0; i < lines; ++i) {
    const auto& ids = batch.prompts[i];
    longest = std::max(longest, ids.size());
    const int32_t last = *std::max_element(ids.begin(), ids.end());
    require(last < info.vocab, file, ":", i + 1, ": expected ids below the vocabulary's ", info.vocab, ", found ", last);
    require(i >= rows || static_cast<int64_t>(ids.size()) + job.output_len <= info.max_model_len, file, ":", i + 1, ": ", ids.size(),
            " ids and request_output_len=", job.output_len, " new ones are more than the ", info.max_model_len, " positions of the model");
  }
  batch.width = longest + static_cast<size_t>(job.output_len);
  require(rows <= kMostIds / batch.width, ini.file(), ": request_batch_size=", rows, " rows of ", batch.width, " ids are more than ",
          kMostIds);
  if (lines < rows)
    warn(concat(file, " has ", lines, " lines and request_batch_size is ", rows, ": the other rows start from ", longest, " times end_id (",
                job.end_id, ")"));
  batch.prompts.resize(rows, std::vector<int32_t>(longest, job.end_id));
  return batch;
}

/// Lines of `out`: each prompt, what was generated, and end_id up to the width.
Rows generate(Engine& engine, const Batch& batch, const Job& job) {
  Rows rows = batch.prompts;
  std::map<uint64_t, size_t> row_of;
  for (size_t i = 0; i < rows.size(); ++i) row_of[engine.submit(rows[i], job.sampling)] = i;
  while (engine.has_work()) {
    for (const Delta& delta : engine.step()) {
      const size_t row = row_of.at(delta.request_id);
      rows[row].insert(rows[row].end(), delta.token_ids.begin(), delta.token_ids.end());
      if (delta.finish == FinishReason::error) fail(ErrorKind::numerical, "request ", row + 1, ": ", delta.error);
    }
  }
  for (auto& row : rows) row.resize(batch.width, job.end_id);
  return rows;
}

void write_out(const Rows& rows) {
  std::ofstream file("out");
  for (const auto& row : rows) {
    for (int32_t id : row) file << id << ' ';
    file << '\n';
  }
  file.close();
  if (!file) fail(ErrorKind::runtime, "out: cannot be written in the current directory");
}

/// FasterTransformer's look at the result: the first ten ids, and how many are zero.
void print_result(const Rows& rows, size_t width) {
  std::printf("Writing %zu elements\n", rows.size() * width);
  size_t zeros = 0;
  for (size_t i = 0; i < rows.size() * width; ++i) {
    const int32_t id = rows[i / width][i % width];
    zeros += id == 0;
    if (i < 10) std::printf("%5d ", id);
    if (i < 10 && (i + 1) % width == 0) std::printf("\n");
  }
  std::printf("\nzeroCount = %zu\n", zeros);
}

/// Memory of the machine, where that is what the engine allocates from.
void print_memory() {
  std::ifstream file("/proc/meminfo");
  double free = 0, total = 0;  // KiB
  for (std::string name, rest; file >> name; std::getline(file, rest)) {
    if (name == "MemTotal:") file >> total;
    if (name == "MemAvailable:") file >> free;
  }
  constexpr double kGiB = 1024 * 1024;
  std::printf("%-20s: free: %5.2f GB, total: %5.2f GB, used: %5.2f GB\n", "after allocation", free / kGiB, total / kGiB,
              (total - free) / kGiB);
}

void print_start(const EngineInfo& info) {
  if (info.rank == 0) std::printf("Total ranks: %d.\n", info.world_size);
  std::printf("Device %s (%s)\nP%d is running with %s #%d.\n", info.device.c_str(), info.device_detail.c_str(), info.rank,
              info.device == "cuda" ? "GPU" : "CPU", info.device == "cuda" ? 0 : info.rank);
  if (info.device == "cpu") print_memory();
}

/// The last line. Scripts take the time from its 17th field.
void print_time(const EngineInfo& info, const Batch& batch, double milliseconds) {
  std::printf(
      "[INFO] request_batch_size %zu beam_width 1 head_num %d size_per_head %d total_output_len %zu decoder_layers %d "
      "vocab_size %d FT-CPP-decoding-beamsearch-time %.2f ms\n",
      batch.prompts.size(), info.heads, info.head_dim, batch.width, info.layers, info.vocab, milliseconds);
}

/// Rank 0's part; the others follow.
void drive(Engine& engine, const Ini& ini, const Job& job) {
  const EngineInfo& info = engine.info();
  for (const std::string& warning : info.warnings) warn(warning);
  check_model(ini, job, info);
  const Batch batch = read_batch(ini, job, info);

  print_start(info);
  const Rows rows = generate(engine, batch, job);  // also the warm-up of what is timed below
  write_out(rows);
  print_result(rows, batch.width);

  const auto start = std::chrono::steady_clock::now();
  generate(engine, batch, job);
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  print_time(info, batch, elapsed.count());
}

bool is_on(const char* variable, const char* otherwise) {
  const char* value = std::getenv(variable);
  return std::string_view(value ? value : otherwise) == "ON";
}

void run(const std::string& ini_file, int world) {
  const Ini ini = Ini::read(ini_file);
  const Job job = read_job(ini, world);
  EngineConfig config;
  config.model = job.model_dir;
  config.dtype = job.dtype;
  config.tensor_parallel_size = job.tensor_parallel, config.pipeline_parallel_size = job.pipeline_parallel;
  if (world > 1) config.ranks = "mpi";
  config.attention = is_on("FMHA_ENABLE", "ON") ? "fused" : "unfused";  // FasterTransformer's variables; its own default is off
  config.unfused_scores = is_on("CONTEXT_ATTENTION_BMM1_HALF_ACCUM", "OFF") ? "model" : "float32";
  config.enable_prefix_caching = false;  // or the timed run would find the warm-up's pages and skip the prompts
  if (job.batch_size > 0) config.max_num_seqs = std::min(config.max_num_seqs, job.batch_size);  // no more KV cache than the batch needs
  Engine engine(config);
  if (engine.info().rank != 0) {
    print_start(engine.info());
    engine.follow();
    return;
  }
  drive(engine, ini, job);
  engine.release("");
}

/// The demo's ini: in a build tree (or an installed one) beside bin/, or in the sources above a build folder.
std::string default_ini() {
  const fs::path bin = fs::read_symlink("/proc/self/exe").parent_path();
  for (const char* place : {"../share/neoxnative", "../../tools"}) {
    std::error_code error;
    const fs::path file = fs::canonical(bin / place / "gptneox_config.ini", error);
    if (!error) return file.string();
  }
  fail(ErrorKind::not_found, "no ini was named, and gptneox_config.ini is neither in ", (bin / "../share/neoxnative").string(), " nor in ",
       (bin / "../../tools").string());
}

bool under_mpirun() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* size = std::getenv(name);
    if (size != nullptr && std::atoi(size) > 1) return true;
  }
  return false;
}

int main_checked(int argc, char** argv) {
  const std::string argument = argc > 1 ? argv[1] : "";
  const bool help = argument == "-h" || argument == "--help";
  if (help || argc > 2) {
    std::fprintf(help ? stdout : stderr,
                 "usage: gptneox_example [ini]\n"
                 "Generates from start_ids.csv in the ini's folder, writes the ids to `out`, then prints the time of a second run.\n"
                 "Without an ini: the bundled demo model (tools/gptneox_config.ini explains every key).\n");
    return help ? 0 : 1;
  }
  run(argc > 1 ? argument : default_ini(), under_mpirun() ? mpi_world_size() : 1);
  return 0;
}

}  // namespace
}  // namespace neox

int main(int argc, char** argv) {
  try {
    return neox::main_checked(argc, argv);
  } catch (const std::exception& e) {
    std::string line = e.what();
    std::replace(line.begin(), line.end(), '\n', ' ');
    std::fprintf(stderr, "gptneox_example: %s\n", line.c_str());
    std::fflush(stdout);
    if (neox::under_mpirun()) neox::mpi_abort(1);  // the other ranks wait for this one
    return 1;
  }
}
