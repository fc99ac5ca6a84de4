// SPDX-License-Identifier: Apache-2.0
// The engine as C++ programs and the Python package see it. Everything here works on token ids.
//
// Stable, for as long as version()'s first two numbers are the same: the names and meanings in neox/*.h, and that Error is all that is
// thrown. Structs may gain fields with defaults that change nothing, so set them by name (.model = ..., in the order declared) and compile
// anew with each version: there is no binary interface to rely on. Not stable: the words of messages, and what the *_detail and ranks
// strings of EngineInfo hold. What is not under neox/ may change at any time.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "neox/error.h"

namespace neox {

enum class PromptType : uint8_t { prefix, tuning };

/// A prompt that was learned for a task. Its virtual tokens stand before a request's own tokens: as keys and values of every layer
/// (prefix), or as embeddings, where tokens have theirs (tuning).
struct PromptTask {
  std::string name;
  PromptType type = PromptType::prefix;
  int32_t length = 0;  // virtual tokens; 0 = the task has no prompt, or as many as there are values
  // prefix: [layers, 2 (k, v), heads, length, head_dim]; attention uses them as they are, so k has been rotated as for positions 0, 1, ...,
  // and a request's own first token is at position `length`. tuning: [length, hidden]. Empty = they are in files.
  std::vector<float> values;
  // Of FasterTransformer's files: model.prefix_prompt.<name>.weight.<r>.bin, which ranks 0, 1, ... share by heads, however many ranks this
  // engine has; or model.prompt_table.<name>.weight.bin.
  std::string folder;
  std::string file_dtype = "float32";  // "float32", "float16", "bfloat16"
};
struct PromptLearning {
  std::vector<PromptTask> tasks;  // FasterTransformer's number of a task is its place here
  int32_t start_id = -1;          // a request's ids from here on are rows of its tuning task's table; -1 = from the vocabulary's size on
};
/// FasterTransformer's keys of an ini file: prompt_learning_type, prompt_learning_start_id and num_tasks in `section` ("" = the model's, as
/// in a config.ini: [gptneox], or the only other one with head_num), task_name and prompt_length in [<section>_task_<k>] or [task_<k>].
/// `folder` has the tasks' files, and a config.ini that tells their weight_data_type. Nothing where prompt_learning_type is 0 (none) or 1
/// (soft prompts, which requests bring). Throws Error(not_found), Error(invalid).
NEOX_API PromptLearning read_prompt_learning(const std::string& ini, const std::string& section, const std::string& folder);

struct EngineConfig {
  // A folder with config.json and weights in one of load_format's forms; or FasterTransformer's <N>-gpu, or the folder where they are.
  std::string model;
  // "safetensors"; "pt": pytorch_model.bin, or its shards and index; "eleutherai": a training checkpoint's layer_*-model_*-model_states.pt;
  // "ft": FasterTransformer's; "auto": what is there; "dummy": random weights of the configuration's shape, for measuring.
  std::string load_format = "auto";
  std::string model_config;    // config.json's text, for a folder that has none; empty = the folder's
  std::string dtype = "auto";  // weights: "auto" (the checkpoint's), "float32", "float16", "bfloat16"
  // Of the matrices of layers and head, on a CPU: "none"; "int8", "int4": integers with scales; "w8a8", "w4a8": the same, multiplied by
  // inputs that become 8-bit integers, each row with a scale of its own; "auto": as the checkpoint's config.json says. The head has 8 bits
  // in all.
  std::string quantization = "auto";
  int32_t quantization_group_size = 0;   // inputs that share a scale, with int4 and w4a8: 32, 64, 128; 0 = the checkpoint's, else 64
  std::string device = "auto";           // "auto", "cpu", "cuda"
  std::string kv_cache_dtype = "auto";   // "auto" (dtype), "float32", "float16", "bfloat16"; on a CPU "int8", a scale for
                                         // each position and head
  std::string isa = "auto";              // CPU kernels: "auto" (the best this machine runs), "generic", "avx2", "avx512", "avx512vnni"
  int64_t kv_cache_memory = 0;           // bytes; 0 = what is sensible for the device
  int32_t block_size = 16;               // positions in a page of the KV cache, a multiple of 16
  int32_t max_model_len = 0;             // positions of one request, virtual tokens counted; 0 = the model's max_position_embeddings
  int32_t max_num_seqs = 256;            // sequences in one step
  int32_t max_num_batched_tokens = 0;    // tokens in one step; 0 = 256 on a CPU, on a GPU 4096 / stages, at least 512
  int32_t num_threads = 0;               // CPU threads; 0 = the cores this process may use
  int32_t max_logprobs = 20;             // of SamplingParams::logprobs and prompt_logprobs
  bool enable_prefix_caching = true;     // requests with a common beginning share its pages
  std::optional<bool> async_scheduling;  // plan a step while the one before runs; unset = where the device runs beside the host
  bool record_steps = true;              // on a GPU: small steps run as recorded graphs; false = the same ops, launched one by one
  bool programmatic_launch = true;       // CUDA kernels may start, and read weights, before the one before them has ended
  std::optional<uint64_t> seed;          // of requests that bring none; unset = fresh entropy for each
  int32_t tensor_parallel_size = 1;      // ranks that share each layer; must divide the heads and the intermediate size
  int32_t pipeline_parallel_size = 1;    // stages of layers, each with tensor_parallel_size ranks
  std::string ranks = "threads";         // what the ranks are: "threads" of this process, or "mpi" processes, of which this is one
  std::optional<int32_t> mpi_comm;       // with "mpi": Fortran's handle of a communicator (mpi4py's comm.py2f()); unset = MPI_COMM_WORLD,
                                         // and MPI is initialised where it was not
  std::string mpi_library;               // with "mpi": what MPI_Get_library_version said to whoever made the handle; empty = not compared
  // Of the GPUs that CUDA sees, the one that each of this machine's ranks takes, in their order, which may share one; empty = 0, 1, ...
  std::vector<int32_t> devices;
  bool custom_all_reduce = true;  // GPUs of one machine may add up with kernels of this library's own; false = NCCL alone
  double comm_timeout = 60;       // seconds after which a rank that does not answer ends the others with an error
  // Prompts' attention on CUDA: "fused", or "unfused", with all scores in memory, of type "float32" or "model", the weights'.
  std::string attention = "fused";
  std::string unfused_scores = "float32";
  // On CUDA: a request's logits are the same to the bit alone, in any batch, in any chunks and after a preemption. The CPU's always are.
  bool deterministic = false;
  // A file of gpt_gemm's, for CUDA: the algorithms of matrix products; empty = cuBLASLt's own choices, and so with a warning where the file
  // is missing, broken, or made on another GPU, driver or cuBLASLt.
  std::string gemm_config;
  // Told while the model loads how many layers are there, and how many will be. What it throws ends the loading.
  std::function<void(int32_t done, int32_t layers)> on_layer_loaded;
  PromptLearning prompt_learning;  // what requests may name as their task
};

/// What a request continues: the virtual tokens of its task, then those that it brings, then tokens.
struct Prompt {
  std::span<const int32_t> ids;   // of the vocabulary; with a tuning task also ids of its virtual tokens, which then stand where these are
  std::string task;               // by name, of EngineConfig::prompt_learning; empty = none
  std::span<const float> embeds;  // [rows, hidden], finite: a soft prompt
};

enum class EarlyStopping : uint8_t { no, yes, never };
enum class LogprobsMode : uint8_t { raw, processed };

/// What a request makes of the logits, in this order: logit_bias, repetition_penalty, presence_penalty and frequency_penalty,
/// no_repeat_ngram_size, bad_words, min_tokens, allowed_token_ids; temperature, top_k, top_p, min_p, typical_p.
struct NEOX_API SamplingParams {
  int32_t max_tokens = 16;       // new tokens at most; 0 = only the prompt's log-probs
  int32_t min_tokens = 0;        // EOS and stop ids cannot be drawn, and other stops do not count, before this many
  float temperature = 1.0f;      // 0 = greedy, ties to the lowest id
  int32_t top_k = 0;             // 0 = all
  float top_p = 1.0f;            // (0, 1]
  float min_p = 0.0f;            // [0, 1], relative to the most probable token
  float typical_p = 1.0f;        // (0, 1]
  float top_p_decay = 1.0f;      // (0, 1]: after each token top_p becomes max(top_p * top_p_decay, top_p_min)
  float top_p_min = 1e-6f;       // (0, 1]
  int32_t top_p_reset_id = -1;   // after this id top_p is as it was at first; -1 = never
  float repetition_penalty = 1;  // (0, 100]: a logit of an id in prompt or output is divided by it, or multiplied where negative
  float presence_penalty = 0;    // [-2, 2]: subtracted from the logits of the ids in the output
  float frequency_penalty = 0;   // [-2, 2]: the same, times how often the id is there
  std::vector<std::pair<int32_t, float>> logit_bias;  // id -> [-100, 100], added to its logit
  int32_t no_repeat_ngram_size = 0;                   // no run of so many tokens occurs twice, prompt included; 0 = they may
  std::vector<std::vector<int32_t>> bad_words_ids;    // runs of tokens that are never completed, wherever they begin
  std::vector<std::string> bad_words;                 // UTF-8: texts that are never completed, whatever tokens they are made of
  std::vector<int32_t> allowed_token_ids;             // only these are drawn; empty = all
  std::optional<uint64_t> seed;                       // unset = EngineConfig::seed, else fresh entropy
  bool ignore_eos = false;                            // go on after the model's own EOS ids
  std::vector<int32_t> stop_token_ids;
  std::vector<std::vector<int32_t>> stop_phrases;  // runs of tokens that end the request; they may begin in the prompt
  std::vector<std::string> stop;                   // UTF-8: the text ends where one of these is complete; it may begin in the prompt
  bool include_stop_str_in_output = false;         // keep that string in the text
  int32_t n = 1;             // independent samples of one prompt, which is computed once; of a beam search, its n best
  int32_t first_index = 0;   // draws are those of the samples from this one on, of a request with more
  int32_t beam_width = 1;    // 1 to 64; from 2 on nothing is drawn: beam search, over log-probs after the edits above
  float length_penalty = 1;  // a hypothesis's score is its sum / (tokens, EOS counted) ^ length_penalty
  EarlyStopping early_stopping = EarlyStopping::no;  // yes: at the width's count of hypotheses; never: not while a better one may come
  float beam_search_diversity_rate = 0;              // times (rank in its own beam mod width), added where continuations are compared
  int32_t logprobs = -1;                             // this many most probable ids with every new token; -1 = none, 0 = only the chosen one
  // Of the new tokens: in the model's own distribution, or, with logprobs at most 0, after the edits above and temperature.
  LogprobsMode logprobs_mode = LogprobsMode::raw;
  int32_t prompt_logprobs = -1;       // the same for the prompt's tokens
  int32_t prompt_logprobs_start = 0;  // from this one of its ids on; the first token of a prompt has none

  void validate() const;  // throws Error(invalid) naming field, value and range

 private:
  void validate_edits() const;
  void validate_beams() const;
};

enum class FinishReason : uint8_t { none, stop, length, cancelled, error };

/// A token with its natural log-probability in the model's own distribution, before temperature, filters and bans, unless
/// SamplingParams::logprobs_mode says otherwise.
struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
  int32_t rank = 0;                            // how many ids are more probable
  std::vector<std::pair<int32_t, float>> top;  // the most probable ids, where they were asked for
};

/// What one step added to one sample of a request.
struct Delta {
  uint64_t request_id = 0;
  int32_t index = 0;                   // of the sample, 0 .. n - 1
  std::vector<int32_t> token_ids;      // the new ids; a final EOS or stop id is among them
  std::vector<TokenLogprob> logprobs;  // [token_ids]
  std::vector<TokenLogprob>
      prompt_logprobs;  // with the first delta of sample 0: of Prompt::ids from prompt_logprobs_start on, but not of
                        // a first one that nothing or only a prefix stands before; id -1 = a virtual token: it has none
  std::string text;     // UTF-8, whole characters only; empty without a vocabulary
  FinishReason finish = FinishReason::none;
  int32_t stop_token = -1;  // the id that ended it, if one did
  std::string stop_string;  // or the string
  float score = 0;          // of a beam search: what the hypotheses are ordered by
  std::string error;        // with FinishReason::error
  ErrorKind error_kind = ErrorKind::numerical;
};

/// Counts since the engine was made, and how it stands now.
struct Stats {
  int64_t requests = 0, finished = 0;  // submitted, and ended in any way
  int32_t running = 0, waiting = 0;    // sequences
  int64_t steps = 0, preemptions = 0;
  int64_t tokens_computed = 0, tokens_cached = 0, tokens_generated = 0;  // cached: prompt tokens that the prefix cache spared
  int32_t blocks_used = 0, blocks_total = 0;                             // pages with an owner
  double planning_seconds = 0, running_seconds = 0;                      // of steps: on the host, and in the executor
  int32_t gemm_hits = 0, gemm_misses = 0;  // products, by shape and rows, with a choice of gemm_config, and without
};

struct TaskInfo {
  std::string name;
  PromptType type;
  int32_t length;
};

/// What the engine made of its configuration; for people to read and tools to print.
struct EngineInfo {
  std::string model, load_format, device, device_detail, dtype, quantization, kv_cache_dtype, hidden_act;
  int32_t layers, hidden, heads, head_dim, intermediate, vocab, rotary_dim, max_positions;
  double rotary_base, layer_norm_eps;
  bool parallel_residual, tied_embedding, attention_bias;
  int64_t parameters, weight_bytes, kv_cache_bytes;
  int32_t quantization_group_size;  // 0 = a scale for each output, or none
  int32_t block_size, num_blocks, max_model_len, max_num_seqs, max_num_batched_tokens, num_threads;
  int32_t rank, world_size, tensor_parallel_size, pipeline_parallel_size, first_layer, last_layer;  // layers [first, last) are this rank's
  std::string ranks;        // "one rank", "threads", or the MPI library, and what tensors pass through between them
  std::string gemm_config;  // "none", or the file, how many choices it has, and how many products of recorded steps take one
  std::vector<int32_t> eos_token_ids;
  std::vector<std::string> warnings;
  std::vector<TaskInfo> tasks;
  int32_t prompt_learning_start_id;
};

/// The bytes that each token stands for, so that text is cut on characters and matched across token borders.
struct Vocabulary {
  std::vector<std::string> bytes;  // [tokens]; a special token's entry is empty
};

class NEOX_API Engine {
 public:
  explicit Engine(const EngineConfig& config);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Text in deltas, and ids at or past the vocabulary's size banned. Before the first submit.
  void set_vocabulary(Vocabulary vocabulary);

  /// Queues a request and returns its id. Safe from any thread. Throws Error(invalid) without a trace left behind.
  uint64_t submit(const Prompt& prompt, const SamplingParams& params);
  uint64_t submit(std::span<const int32_t> ids, const SamplingParams& params) { return submit(Prompt{.ids = ids}, params); }
  /// Ends a request at the next step, with FinishReason::cancelled; an unknown or ended id is ignored. Safe from any thread.
  void cancel(uint64_t request_id);
  /// Runs one step over all requests and returns what it added; empty when there is nothing to do.
  std::vector<Delta> step();
  bool has_work() const;
  Stats stats() const;  // safe from any thread; as of the end of the last step

  /// Logits of every position. ids: [batch, length], row-major; out: [batch, length, vocab] f32.
  void forward(std::span<const int32_t> ids, int64_t batch, int64_t length, std::span<float> out);

  const EngineInfo& info() const;

  // With ranks in several processes rank 0 drives: submit, cancel, step and forward are its own, and throw elsewhere.
  /// All ranks come here with the same words, what they are about to do, or all throw Error(invalid) naming what differs; who waits in vain
  /// throws after comm_timeout. Nothing to do where the others are threads, or in follow already.
  void meet(const std::string& call);
  /// On ranks other than 0, after meet: takes part in rank 0's steps until it lets go, and returns what it says then.
  std::string follow();
  /// On rank 0: ends the others' follow.
  void release(const std::string& word);
  bool failed() const;  // an error ended this engine, and nothing but destroying it is left

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// How many ranks mpirun started, of which this process is one; initialises MPI. Throws Error(unsupported) where this build has no MPI.
NEOX_API int mpi_world_size();
/// Ends all of mpirun's ranks, for programs that are nothing but one of them; does nothing where MPI was not initialised here.
NEOX_API void mpi_abort(int exit_code);

/// What this build of the library holds and why a part is missing, one line each: "cuda: off (...)".
NEOX_API std::vector<std::string> build_info();
NEOX_API const char* version();

}  // namespace neox
