# What Python sees of cpp/include/neox/engine.h. Structs that only leave C++ are declared as C structs: Cython turns those into dicts.
from cpython.object cimport PyObject
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t
from libcpp cimport bool
from libcpp.optional cimport optional
from libcpp.span cimport span
from libcpp.string cimport string
from libcpp.utility cimport pair
from libcpp.vector cimport vector

ctypedef span[const int32_t] Ids

cdef extern from "errors.h" nogil:
    void raise_neox_error()

cdef extern from "neox/error.h" namespace "neox" nogil:
    cdef enum class ErrorKind:
        invalid
        numerical

cdef extern from "loading.h" nogil:
    cdef cppclass LayerCallback "std::function<void(int32_t, int32_t)>":
        pass
    LayerCallback neox_told(PyObject* call)

cdef extern from "neox/engine.h" namespace "neox" nogil:
    cdef enum class PromptType(uint8_t):
        prefix
        tuning

    cdef cppclass PromptTask:
        string name
        PromptType type
        vector[float] values

    cdef cppclass PromptLearning:
        vector[PromptTask] tasks
        int32_t start_id

    PromptLearning read_prompt_learning(const string&, const string&, const string&) except +raise_neox_error

    cdef cppclass Prompt:
        Ids ids
        string task
        span[const float] embeds

    cdef struct TaskInfo:
        string name
        PromptType type
        int32_t length

    cdef cppclass EngineConfig:
        string quantization
        int32_t quantization_group_size
        string model, load_format, model_config, dtype, device, kv_cache_dtype, isa, attention, unfused_scores, gemm_config
        int64_t kv_cache_memory
        int32_t block_size, max_model_len, max_num_seqs, max_num_batched_tokens, num_threads, max_logprobs
        bool enable_prefix_caching, programmatic_launch, deterministic
        optional[bool] async_scheduling
        bool record_steps
        optional[uint64_t] seed
        LayerCallback on_layer_loaded
        int32_t tensor_parallel_size, pipeline_parallel_size
        string ranks, mpi_library
        optional[int32_t] mpi_comm
        double comm_timeout
        vector[int32_t] devices
        bool custom_all_reduce
        PromptLearning prompt_learning

    cdef enum class EarlyStopping(uint8_t):
        no
        yes
        never

    cdef enum class LogprobsMode(uint8_t):
        raw
        processed

    cdef cppclass SamplingParams:
        LogprobsMode logprobs_mode
        int32_t beam_width, first_index
        float length_penalty, beam_search_diversity_rate
        EarlyStopping early_stopping
        int32_t max_tokens, min_tokens, top_k, n, logprobs, prompt_logprobs, prompt_logprobs_start
        int32_t top_p_reset_id, no_repeat_ngram_size
        float temperature, top_p, min_p, typical_p, top_p_decay, top_p_min
        float repetition_penalty, presence_penalty, frequency_penalty
        vector[pair[int32_t, float]] logit_bias
        vector[vector[int32_t]] bad_words_ids, stop_phrases
        vector[string] bad_words
        vector[int32_t] allowed_token_ids
        optional[uint64_t] seed
        bool ignore_eos, include_stop_str_in_output
        vector[int32_t] stop_token_ids
        vector[string] stop
        void validate() except +raise_neox_error

    cdef enum class FinishReason(uint8_t):
        none
        stop
        length
        cancelled
        error

    cdef struct TokenLogprob:
        int32_t id
        float logprob
        int32_t rank
        vector[pair[int32_t, float]] top

    cdef struct Delta:
        uint64_t request_id
        int32_t index
        vector[int32_t] token_ids
        vector[TokenLogprob] logprobs
        vector[TokenLogprob] prompt_logprobs
        string text
        FinishReason finish
        int32_t stop_token
        string stop_string
        float score
        string error
        ErrorKind error_kind

    cdef struct Stats:
        int64_t requests, finished
        int32_t running, waiting
        int64_t steps, preemptions
        int64_t tokens_computed, tokens_cached, tokens_generated
        int32_t blocks_used, blocks_total
        double planning_seconds, running_seconds
        int32_t gemm_hits, gemm_misses

    cdef struct EngineInfo:
        string model, load_format, device, device_detail, dtype, quantization, kv_cache_dtype, hidden_act
        int32_t layers, hidden, heads, head_dim, intermediate, vocab, rotary_dim, max_positions
        double rotary_base, layer_norm_eps
        bool parallel_residual, tied_embedding, attention_bias
        int64_t parameters, weight_bytes, kv_cache_bytes
        int32_t quantization_group_size
        int32_t block_size, num_blocks, max_model_len, max_num_seqs, max_num_batched_tokens, num_threads
        int32_t rank, world_size, tensor_parallel_size, pipeline_parallel_size, first_layer, last_layer
        string ranks, gemm_config
        vector[int32_t] eos_token_ids
        vector[string] warnings
        vector[TaskInfo] tasks
        int32_t prompt_learning_start_id

    cdef cppclass Vocabulary:
        vector[string] bytes

    cdef cppclass Engine:
        Engine(const EngineConfig&) except +raise_neox_error
        void set_vocabulary(Vocabulary) except +raise_neox_error
        uint64_t submit(const Prompt&, const SamplingParams&) except +raise_neox_error
        void cancel(uint64_t) except +raise_neox_error
        vector[Delta] step() except +raise_neox_error
        bool has_work() except +raise_neox_error
        Stats stats() except +raise_neox_error
        void forward(Ids, int64_t, int64_t, span[float]) except +raise_neox_error
        const EngineInfo& info() except +raise_neox_error
        void meet(const string&) except +raise_neox_error
        string follow() except +raise_neox_error
        void release(const string&) except +raise_neox_error
        bool failed() except +raise_neox_error

    vector[string] build_info() except +raise_neox_error
    const char* version()

cdef extern from "neox/checkpoint.h" namespace "neox" nogil:
    cdef cppclass StoredTensor:
        const void* data
        string dtype
        vector[int64_t] shape

    cdef cppclass CheckpointReader:
        CheckpointReader(const string& path, const string& load_format, const string& model_config) except +raise_neox_error
        vector[string] names() except +raise_neox_error
        vector[int64_t] shape(const string& name) except +raise_neox_error
        string dtype(const string& name) except +raise_neox_error
        StoredTensor read(const string& name) except +raise_neox_error
        bool same(const string& a, const string& b) except +raise_neox_error
        void done_with(const string& name) except +raise_neox_error

    string training_step(const string& path) except +raise_neox_error

cdef extern from "neox/quantize.h" namespace "neox" nogil:
    cdef struct QuantizationError:
        double error, norm

    QuantizationError quantize(const string& mode, int32_t group, const string& dtype, const void* weight, int64_t rows, int64_t cols,
                               span[int8_t] q, span[float] scale) except +raise_neox_error

cdef extern from "neox/machine.h" namespace "neox" nogil:
    double read_bandwidth(int threads) except +raise_neox_error
    double triad_bandwidth(int threads) except +raise_neox_error
    double int8_peak(int threads) except +raise_neox_error
    string int8_instruction() except +raise_neox_error
    int32_t gpu_count() except +raise_neox_error
    vector[string] gpu_report() except +raise_neox_error
    double gpu_read_bandwidth() except +raise_neox_error
    double gpu_matmul_peak(const string& dtype) except +raise_neox_error
