// SPDX-License-Identifier: Apache-2.0
#include "example_job.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string_view>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

constexpr char kInstance[] = "ft_instance_hyperparameter";
constexpr char kRequest[] = "request";
constexpr int32_t kMostBeams = 64;
constexpr std::string_view kModelKeys[] = {"head_num",       "size_per_head",    "inter_size",       "vocab_size",
                                           "decoder_layers", "rotary_embedding", "use_gptj_residual"};

int32_t at_least(const Ini& ini, const std::string& section, const char* key, int32_t minimum) {
  const int32_t value = ini.integer(section, key);
  if (value < minimum) ini.reject(section, key, concat("an integer of at least ", minimum));
  return value;
}

/// A key of [request] that may be left out.
struct Number {
  const char* key;
  float fallback, least, most;
  const char* expected;
  float SamplingParams::*field;
};
constexpr float kAny = std::numeric_limits<float>::max();
constexpr Number kNumbers[] = {
    {"repetition_penalty", 1, std::numeric_limits<float>::min(), 100, "more than 0 and at most 100", &SamplingParams::repetition_penalty},
    {"presence_penalty", 0, -2, 2, "-2 to 2", &SamplingParams::presence_penalty},
    {"len_penalty", 0, -100, 100, "-100 to 100", &SamplingParams::length_penalty},
    {"beam_search_diversity_rate", 0, -kAny, kAny, "a number", &SamplingParams::beam_search_diversity_rate},
    {"top_p_decay", 1, std::numeric_limits<float>::min(), 1, "more than 0 and at most 1", &SamplingParams::top_p_decay},
    {"top_p_min", 1e-6f, std::numeric_limits<float>::min(), 1, "more than 0 and at most 1", &SamplingParams::top_p_min},
};

float read_number(const Ini& ini, const Number& number) {
  const double value = ini.number_or(kRequest, number.key, number.fallback);
  if (!(value >= number.least && value <= number.most)) ini.reject(kRequest, number.key, number.expected);
  return float(value);
}

void warn_of_unknown(const Ini& ini, const std::string& section, std::initializer_list<std::string_view> known, Job& job) {
  for (const std::string& key : ini.keys(section)) {
    if (std::find(known.begin(), known.end(), key) == known.end() &&
        (section == kInstance || section == kRequest ||
         std::find(std::begin(kModelKeys), std::end(kModelKeys), key) == std::end(kModelKeys)))
      job.warnings.push_back(
          concat(ini.file(), ": [", printable(section), "] ", printable(key), " is no key that this program reads, so it does nothing"));
  }
}

std::string beside(const Ini& ini, const std::string& path) { return (fs::path(ini.file()).parent_path() / path).string(); }

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string resolve(const Ini& ini, const std::string& path) {
  const std::string in_folder = beside(ini, path);
  return exists(in_folder) ? in_folder : path;
}

/// The file that `key` names, or `otherwise` beside the ini if it is there.
std::string read_path(const Ini& ini, const char* key, const char* otherwise) {
  if (ini.has(kRequest, key)) {
    const std::string path = ini.text(kRequest, key);
    return path.empty() ? path : resolve(ini, path);
  }
  return exists(beside(ini, otherwise)) ? beside(ini, otherwise) : "";
}

/// FasterTransformer's rules: top_k and top_p both 0 is greedy, either of them 0 is that filter off, and every row has the same seed.
SamplingParams read_sampling(const Ini& ini, Job& job) {
  SamplingParams p;
  p.top_k = at_least(ini, kRequest, "top_k", 0);
  const auto top_p = float(ini.number(kRequest, "top_p"));
  if (top_p < 0 || top_p > 1) ini.reject(kRequest, "top_p", "a number from 0 to 1");
  p.top_p = top_p > 0 ? top_p : 1.0f;
  const auto temperature = float(ini.number(kRequest, "temperature"));
  if (temperature != 0 && (temperature < 0.001f || temperature > 1000))
    ini.reject(kRequest, "temperature", "0 or a number from 0.001 to 1000");
  p.temperature = p.top_k == 0 && top_p == 0 ? 0.0f : temperature;
  for (const Number& number : kNumbers) p.*number.field = read_number(ini, number);
  p.top_p_reset_id = ini.has(kRequest, "top_p_reset_ids") ? at_least(ini, kRequest, "top_p_reset_ids", -1) : -1;
  p.seed = ini.has(kRequest, "random_seed") ? uint64_t(at_least(ini, kRequest, "random_seed", 0)) : 0;

  p.beam_width = p.n = at_least(ini, kRequest, "beam_width", 1);
  if (p.beam_width > kMostBeams) ini.reject(kRequest, "beam_width", concat("1 to ", kMostBeams));
  p.max_tokens = at_least(ini, kRequest, "request_output_len", 1);
  p.min_tokens = ini.has(kRequest, "min_length") ? std::min(at_least(ini, kRequest, "min_length", 0), p.max_tokens) : 0;
  for (const char* key : {"len_penalty", "beam_search_diversity_rate"}) {
    if (p.beam_width == 1 && ini.number_or(kRequest, key, 0) != 0)
      job.warnings.push_back(concat(ini.file(), ": [", kRequest, "] ", key, " is of beam search, so it does nothing with beam_width 1"));
  }
  const bool filtered = p.top_k > 1 || (top_p > 0 && top_p < 1);  // top_k=1 is what FasterTransformer's ini has
  if (p.beam_width > 1 && p.temperature != 0 && (p.temperature != 1 || filtered))
    job.warnings.push_back(concat(ini.file(), ": [", kRequest,
                                  "] temperature, top_k and top_p are of sampling, so they do nothing with beam_width ", p.beam_width));
  return p;
}

std::string read_dtype(const Ini& ini) {
  const std::string name = ini.text(kInstance, "data_type");
  if (name == "fp32") return "float32";
  if (name == "fp16") return "float16";
  if (name == "bf16") return "bfloat16";
  ini.reject(kInstance, "data_type", "fp32, fp16 or bf16");
}

/// FasterTransformer's rule: under mpirun the tensor ranks are what the pipeline leaves of the world. Without it the ranks are threads.
void read_ranks(const Ini& ini, int world, Job& job) {
  EngineConfig& c = job.engine;
  c.tensor_parallel_size = at_least(ini, kInstance, "tensor_para_size", 1);
  c.pipeline_parallel_size = at_least(ini, kInstance, "pipeline_para_size", 1);
  if (world == 1) return;
  c.ranks = "mpi";
  if (int64_t(c.tensor_parallel_size) * c.pipeline_parallel_size == world) return;
  if (world % c.pipeline_parallel_size != 0) ini.reject(kInstance, "pipeline_para_size", concat("a divisor of the ", world, " MPI ranks"));
  c.tensor_parallel_size = world / c.pipeline_parallel_size;
  job.notes.push_back(concat("Setting tensor_para_size to ", c.tensor_parallel_size));
}

void read_engine(const Ini& ini, int world, Job& job) {
  EngineConfig& c = job.engine;
  read_ranks(ini, world, job);
  c.dtype = read_dtype(ini);
  c.device = ini.text_or(kInstance, "device", "auto");
  if (c.device != "auto" && c.device != "cpu" && c.device != "cuda") ini.reject(kInstance, "device", "auto, cpu or cuda");
  c.load_format = ini.text_or(kInstance, "load_format", "auto");
  if (c.load_format != "auto" && c.load_format != "dummy") ini.reject(kInstance, "load_format", "auto or dummy");
  if (c.load_format != "dummy") c.model = resolve(ini, ini.text(kInstance, "model_dir"));
  // 1 allows an all-reduce of our own between GPUs, 0 leaves it to NCCL.
  const int32_t own = ini.integer_or(kInstance, "enable_custom_all_reduce", 1);
  if (own != 0 && own != 1) ini.reject(kInstance, "enable_custom_all_reduce", "0 or 1");
  c.custom_all_reduce = own == 1;
  c.enable_prefix_caching = false;  // or the timed run would find the warm-up's pages and skip the prompts
  const int64_t rows = int64_t(job.batch_size) * job.sampling.beam_width;
  if (rows > 0) c.max_num_seqs = int32_t(std::min<int64_t>(c.max_num_seqs, rows));  // no more KV cache than the batch needs
  c.max_num_seqs = std::max(c.max_num_seqs, job.sampling.beam_width);
}

/// The tasks are read with the checkpoint, in whose folder they are.
void read_prompts(const Ini& ini, Job& job) {
  job.prompt_type = ini.integer_or(job.model_name, "prompt_learning_type", 0);
  if (job.prompt_type != 0 && job.prompt_type != 2 && job.prompt_type != 3)
    ini.reject(job.model_name, "prompt_learning_type",
               "0 (none), 2 (prefix) or 3 (p/prompt-tuning): soft prompts (1) come with requests, and csv files have no place for them");
  if (job.prompt_type != 0 && job.engine.load_format == "dummy")
    ini.reject(job.model_name, "prompt_learning_type", "0 with random weights");
  if (job.prompt_type != 0 && at_least(ini, job.model_name, "num_tasks", 0) == 0)
    ini.reject(job.model_name, "num_tasks", concat("1 or more with prompt_learning_type ", job.prompt_type));
}

}  // namespace

Job read_job(const Ini& ini, int world) {
  Job job;
  job.model_name = ini.text(kInstance, "model_name");
  job.sampling = read_sampling(ini, job);
  job.batch_size = at_least(ini, kRequest, "request_batch_size", 0);
  read_engine(ini, world, job);

  read_prompts(ini, job);
  job.end_id = at_least(ini, job.model_name, "end_id", 0);
  job.sampling.ignore_eos = true;  // end_id belongs to the request, and alone ends it
  job.sampling.stop_token_ids = {job.end_id};

  job.start_ids = read_path(ini, "start_ids_file", "start_ids.csv");
  if (job.start_ids.empty()) job.start_ids = beside(ini, "start_ids.csv");  // which is not there, and read for its error
  job.bad_words = read_path(ini, "bad_words_file", "bad_words.csv");
  job.stop_words = read_path(ini, "stop_words_file", "stop_words.csv");

  warn_of_unknown(ini, kInstance,
                  {"data_type", "enable_custom_all_reduce", "tensor_para_size", "pipeline_para_size", "model_name", "model_dir", "device",
                   "load_format"},
                  job);
  warn_of_unknown(ini, kRequest,
                  {"beam_width", "top_k", "top_p", "temperature", "repetition_penalty", "presence_penalty", "min_length", "len_penalty",
                   "beam_search_diversity_rate", "request_batch_size", "request_output_len", "random_seed", "top_p_decay", "top_p_min",
                   "top_p_reset_ids", "start_ids_file", "bad_words_file", "stop_words_file"},
                  job);
  warn_of_unknown(ini, job.model_name, {"start_id", "end_id", "prompt_learning_start_id", "prompt_learning_type", "num_tasks"}, job);
  for (size_t k = 0; k < ini.sections().size(); ++k)
    for (const std::string& section : {concat("task_", k), concat(job.model_name, "_task_", k)})
      warn_of_unknown(ini, section, {"task_name", "prompt_length"}, job);
  return job;
}

std::vector<std::string> check_model(const Ini& ini, const Job& job, const EngineInfo& info) {
  const int32_t values[] = {
      info.heads, info.head_dim, info.intermediate, info.vocab, info.layers, info.rotary_dim, info.parallel_residual ? 1 : 0};
  for (size_t i = 0; i < std::size(values); i++) {
    const std::string key(kModelKeys[i]);
    if (ini.integer_or(job.model_name, key, values[i]) != values[i])
      ini.reject(job.model_name, key, concat(values[i], ", which is what the checkpoint ", info.model, " has"));
  }
  for (const char* key : {"start_id", "end_id"}) {
    const int32_t id = ini.integer_or(job.model_name, key, 0);
    if (id < 0 || id >= info.vocab) ini.reject(job.model_name, key, concat("a token id below the vocabulary's ", info.vocab));
  }
  const auto& eos = info.eos_token_ids;
  if (eos.empty() || std::find(eos.begin(), eos.end(), job.end_id) != eos.end()) return {};
  return {concat(ini.file(), ": [", job.model_name, "] end_id is ", job.end_id, ", but the checkpoint's end-of-text id is ", eos.front())};
}

std::string config_json(const Ini& ini, const Job& job, int64_t positions) {
  const std::string& name = job.model_name;
  const int64_t heads = at_least(ini, name, "head_num", 1), head_dim = at_least(ini, name, "size_per_head", 1);
  const int64_t inner = ini.has(name, "inter_size") ? at_least(ini, name, "inter_size", 1) : 4 * heads * head_dim;
  const int32_t rotary = at_least(ini, name, "rotary_embedding", 0);
  if (rotary > head_dim) ini.reject(name, "rotary_embedding", concat("0 to size_per_head, ", head_dim));
  const int32_t residual = ini.integer_or(name, "use_gptj_residual", 1);
  if (residual != 0 && residual != 1) ini.reject(name, "use_gptj_residual", "0 or 1");
  // A little more than the fraction, since whoever reads it multiplies and cuts.
  const double fraction = std::min(1.0, (rotary + 1e-4) / double(head_dim));
  return concat(R"({"model_type": "gpt_neox", "num_attention_heads": )", heads, R"(, "hidden_size": )", heads * head_dim,
                R"(, "intermediate_size": )", inner, R"(, "vocab_size": )", at_least(ini, name, "vocab_size", 1),
                R"(, "num_hidden_layers": )", at_least(ini, name, "decoder_layers", 1), R"(, "max_position_embeddings": )", positions,
                R"(, "hidden_act": "gelu_new", "rotary_pct": )", fraction, R"(, "use_parallel_residual": )", residual ? "true" : "false",
                "}\n");
}

}  // namespace neox
