// SPDX-License-Identifier: Apache-2.0
// FasterTransformer's gptneox_example on this engine: reads its ini and csv files, prints its lines, writes its `out` file.
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/ini.h"
#include "example_batch.h"
#include "example_job.h"
#include "model/ft_config.h"
#include "neox/engine.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

void note(const std::string& message) { std::printf("[INFO] %s\n", message.c_str()); }
void warn(const std::string& message) { std::fprintf(stderr, "[WARNING] %s\n", message.c_str()); }

/// FasterTransformer's variables, which choose CUDA's attention; its own default was unfused.
struct Environment {
  const char* fmha = std::getenv("FMHA_ENABLE");
  const char* half = std::getenv("CONTEXT_ATTENTION_BMM1_HALF_ACCUM");

  void apply(EngineConfig& c) const {
    c.attention = !fmha || std::string_view(fmha) == "ON" ? "fused" : "unfused";
    c.unfused_scores = half && std::string_view(half) == "ON" ? "model" : "float32";
  }
  bool is_set() const { return fmha || half; }
};

/// What the engine has to say. That the CPU has one attention is no warning where the choice was the environment's.
void report(const EngineInfo& info, const Environment& environment) {
  const bool moot = info.device == "cpu" && environment.is_set();
  if (moot) note("FMHA_ENABLE and CONTEXT_ATTENTION_BMM1_HALF_ACCUM choose CUDA's attention: the CPU has one, and uses it");
  for (const std::string& warning : info.warnings)
    if (!moot || !warning.starts_with("attention is 'unfused'")) warn(warning);
}

/// A folder with a config.json alone, for random weights; it goes with the object.
class ShapeFolder {
 public:
  explicit ShapeFolder(const std::string& config) : path_((fs::temp_directory_path() / "gptneox_example-XXXXXX").string()) {
    if (!mkdtemp(path_.data())) fail(ErrorKind::runtime, path_, ": cannot be made");
    std::ofstream file(path_ + "/config.json");
    file << config;
    file.close();
    if (!file) fail(ErrorKind::runtime, path_, "/config.json: cannot be written");
  }
  ~ShapeFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ShapeFolder(const ShapeFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::unique_ptr<Engine> load(const Ini& ini, const Job& job, const Input& input) {
  EngineConfig config = job.engine;
  if (config.load_format != "dummy") return std::make_unique<Engine>(config);
  const int64_t positions = std::max<int64_t>(2048, int64_t(input.longest) + job.sampling.max_tokens);
  const ShapeFolder folder(config_json(ini, job, positions));
  config.model = folder.path();
  try {
    return std::make_unique<Engine>(config);
  } catch (const Error& e) {  // a shape that no model has: the ini says so
    std::string message = e.what();
    const std::string file = folder.path() + "/config.json";
    if (const size_t at = message.find(file); at != std::string::npos)
      message.replace(at, file.size(), concat(ini.file(), ": [", job.model_name, "]"));
    throw Error(e.kind, message);
  }
}

/// Rank 0's part; the others follow.
void drive(Engine& engine, const Ini& ini, Job& job, const Input& input) {
  const EngineInfo& info = engine.info();
  for (const std::string& warning : check_model(ini, job, info)) job.warnings.push_back(warning);
  const Batch batch = make_batch(ini, job, input, info);
  for (const std::string& warning : job.warnings) warn(warning);
  for (const std::string& message : job.notes) note(message);

  print_start(info);
  const Rows rows = generate(engine, batch);  // also the warm-up of what is timed below
  write_out(rows);
  print_result(rows);

  const auto start = std::chrono::steady_clock::now();
  generate(engine, batch);
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  print_time(info, batch, elapsed.count());
}

void run(const std::string& ini_file, int world) {
  const Ini ini = Ini::read(ini_file);
  Job job = read_job(ini, world);
  const Input input = read_input(job);
  if (job.prompt_type != 0)
    job.engine.prompt_learning =
        read_prompt_learning(ini_file, job.model_name, model_folder(job.engine.model, job.engine.tensor_parallel_size));
  const Environment environment;
  environment.apply(job.engine);
  if (fs::exists("gemm_config.in")) job.engine.gemm_config = "gemm_config.in";  // of gpt_gemm, in the working directory

  const std::unique_ptr<Engine> engine = load(ini, job, input);
  if (engine->info().rank != 0) {
    print_start(engine->info());
    engine->follow();
    return;
  }
  report(engine->info(), environment);
  drive(*engine, ini, job, input);
  engine->release("");
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
