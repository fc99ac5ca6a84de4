# The C++ engine as Python objects, and nothing more: every call into C++ runs without the GIL.
from operator import index
from os import fsdecode, fsencode

from numpy import asarray, empty, float32, int8, uint8

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t
from libcpp cimport bool as cpp_bool
from libcpp.memory cimport shared_ptr, unique_ptr
from libcpp.span cimport span
from libcpp.string cimport string
from libcpp.utility cimport pair
from libcpp.vector cimport vector

from . cimport neox


class NumericalError(RuntimeError):
    """NaN or infinity where a finite number was due."""

    __module__ = "neoxnative"


ctypedef const float const_float

cdef dict _TASKS = {<int>neox.PromptType.prefix: "prefix", <int>neox.PromptType.tuning: "tuning"}

cdef dict _FINISH = {
    <int>neox.FinishReason.none: None,
    <int>neox.FinishReason.stop: "stop",
    <int>neox.FinishReason.length: "length",
    <int>neox.FinishReason.cancelled: "cancelled",
    <int>neox.FinishReason.error: "error",
}


cdef str _text(str name, value, str expected="a string"):
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected {expected}")
    return value


cdef int32_t _int32(str name, value) except? -1:
    try:
        return index(value)
    except OverflowError:
        raise ValueError(f"{name} is {value}, expected a 32-bit integer") from None
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None


cdef int32_t _count(str name, value) except? -1:
    cdef int32_t c = _int32(name, value)
    if c < 0:
        raise ValueError(f"{name} is {value}, expected 0 or more, or None")
    return c


cdef int64_t _int64(str name, value) except? -1:
    try:
        return index(value)
    except OverflowError:
        raise ValueError(f"{name} is {value}, expected a 64-bit integer") from None
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None


cdef uint64_t _seed(value) except? 0:
    try:
        return index(value)
    except OverflowError:
        raise ValueError(f"seed is {value}, expected an integer in [0, 2**64)") from None
    except TypeError:
        raise TypeError(f"seed is {value!r}, expected an integer or None") from None


cdef float _float(str name, value) except? -1:
    try:
        return value
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected a number") from None


cdef int _fill_phrases(str name, phrases, vector[string]& texts, vector[vector[int32_t]]& ids) except -1:
    cdef vector[int32_t] run
    for phrase in phrases:
        if isinstance(phrase, str):
            texts.push_back(phrase.encode())
            continue
        run.clear()
        for token in phrase:
            run.push_back(_int32(name, token))
        ids.push_back(run)
    return 0


cdef int _fill(neox.SamplingParams& c, params) except -1:
    c.max_tokens = _int32("max_tokens", params.max_tokens)
    c.min_tokens = _int32("min_tokens", params.min_tokens)
    c.temperature = _float("temperature", params.temperature)
    c.top_k = _int32("top_k", params.top_k)
    c.top_p = _float("top_p", params.top_p)
    c.min_p = _float("min_p", params.min_p)
    if params.seed is not None:
        c.seed = _seed(params.seed)
    c.ignore_eos = params.ignore_eos
    c.include_stop_str_in_output = params.include_stop_str_in_output
    for name in ("typical_p", "top_p_decay", "top_p_min", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        _float(name, getattr(params, name))
    c.typical_p, c.top_p_decay, c.top_p_min = params.typical_p, params.top_p_decay, params.top_p_min
    c.repetition_penalty, c.presence_penalty, c.frequency_penalty = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
    c.first_index = _int32("first_index", params.first_index)
    c.beam_width = _int32("beam_width", params.beam_width)
    c.length_penalty = _float("length_penalty", params.length_penalty)
    c.beam_search_diversity_rate = _float("beam_search_diversity_rate", params.beam_search_diversity_rate)
    if params.early_stopping == "never":
        c.early_stopping = neox.EarlyStopping.never
    else:
        c.early_stopping = neox.EarlyStopping.yes if params.early_stopping else neox.EarlyStopping.no
    c.top_p_reset_id = _int32("top_p_reset_id", params.top_p_reset_id)
    c.no_repeat_ngram_size = _int32("no_repeat_ngram_size", params.no_repeat_ngram_size)
    for token, bias in (params.logit_bias or {}).items():
        c.logit_bias.push_back(pair[int32_t, float](_int32("logit_bias", token), _float("logit_bias", bias)))
    for token in params.allowed_token_ids or ():
        c.allowed_token_ids.push_back(_int32("allowed_token_ids", token))
    _fill_phrases("stop", params.stop, c.stop, c.stop_phrases)
    _fill_phrases("bad_words", params.bad_words, c.bad_words, c.bad_words_ids)
    c.n = _int32("n", params.n)
    c.logprobs = -1 if params.logprobs is None else _count("logprobs", params.logprobs)
    c.logprobs_mode = neox.LogprobsMode.processed if params.logprobs_mode == "processed" else neox.LogprobsMode.raw
    c.prompt_logprobs = -1 if params.prompt_logprobs is None else _count("prompt_logprobs", params.prompt_logprobs)
    c.prompt_logprobs_start = _int32("prompt_logprobs_start", params.prompt_logprobs_start)
    for token in params.stop_token_ids:
        c.stop_token_ids.push_back(_int32("stop_token_ids", token))
    return 0


cdef int _fill_tasks(neox.PromptLearning& c, tasks) except -1:
    cdef neox.PromptTask task
    cdef const float[::1] values
    for name, kind, array in tasks:
        values = array
        task.name = name
        task.type = neox.PromptType.prefix if kind == "prefix" else neox.PromptType.tuning
        task.values.clear()
        if values.shape[0]:
            task.values.assign(&values[0], &values[0] + values.shape[0])
        c.tasks.push_back(task)
    return 0


def validate(params):
    cdef neox.SamplingParams c
    _fill(c, params)
    with nogil:
        c.validate()


def build_info():
    cdef vector[neox.string] lines
    with nogil:
        lines = neox.build_info()
    return lines


def version():
    return neox.version()


def read_bandwidth(threads):
    cdef int c = _int32("threads", threads)
    cdef double bandwidth
    with nogil:
        bandwidth = neox.read_bandwidth(c)
    return bandwidth


def triad_bandwidth(threads):
    cdef int c = _int32("threads", threads)
    cdef double bandwidth
    with nogil:
        bandwidth = neox.triad_bandwidth(c)
    return bandwidth


def int8_peak(threads):
    cdef int c = _int32("threads", threads)
    cdef double peak
    with nogil:
        peak = neox.int8_peak(c)
    return peak


def int8_instruction():
    return neox.int8_instruction()


def gpu_count():
    cdef int32_t count
    with nogil:
        count = neox.gpu_count()
    return count


def gpu_report():
    cdef vector[string] lines
    with nogil:
        lines = neox.gpu_report()
    return lines


def gpu_read_bandwidth():
    cdef double bandwidth
    with nogil:
        bandwidth = neox.gpu_read_bandwidth()
    return bandwidth


def gpu_matmul_peak(str dtype):
    cdef neox.string c = dtype
    cdef double peak
    with nogil:
        peak = neox.gpu_matmul_peak(c)
    return peak


cdef neox.Ids _ids(const int32_t[::1] ids) noexcept:
    return neox.Ids(&ids[0] if ids.shape[0] else NULL, <size_t>ids.shape[0])


cdef class Engine:
    cdef unique_ptr[neox.Engine] engine

    def __cinit__(self, *, str model, load_format, str model_config, str dtype, quantization, device, str kv_cache_dtype, isa, attention,
                  unfused_scores, str gemm_config, quantization_group_size, kv_cache_memory, block_size, max_model_len, max_num_seqs, max_num_batched_tokens, num_threads,
                  max_logprobs, enable_prefix_caching, async_scheduling, record_steps, programmatic_launch, seed, on_layer_loaded,
                  tensor_parallel_size, pipeline_parallel_size, str ranks, mpi_comm, str mpi_library, comm_timeout, list devices, bint custom_all_reduce,
                  bint deterministic, tasks, str task_folder):
        cdef neox.EngineConfig c
        cdef string ini, folder
        if task_folder is not None:
            ini, folder = task_folder + "/config.ini", task_folder
            with nogil:
                c.prompt_learning = neox.read_prompt_learning(ini, string(), folder)
            if c.prompt_learning.tasks.empty():
                raise ValueError(f"{task_folder}/config.ini has no tasks of learned prompts, expected prompt_learning_type 2 or 3, and num_tasks")
        _fill_tasks(c.prompt_learning, tasks)
        c.model, c.model_config, c.gemm_config, c.deterministic = model, model_config, gemm_config, deterministic
        c.load_format, c.device, c.isa = _text("load_format", load_format), _text("device", device), _text("isa", isa)
        c.dtype, c.kv_cache_dtype = dtype, kv_cache_dtype
        c.quantization = _text("quantization", quantization, "a string: none, int8, w8a8, int4 or w4a8")
        c.quantization_group_size = _int32("quantization_group_size", quantization_group_size)
        c.attention, c.unfused_scores = _text("attention", attention), _text("unfused_scores", unfused_scores)
        c.kv_cache_memory = _int64("kv_cache_memory", kv_cache_memory)
        c.block_size = _int32("block_size", block_size)
        c.max_model_len = _int32("max_model_len", max_model_len)
        c.max_num_seqs = _int32("max_num_seqs", max_num_seqs)
        c.max_num_batched_tokens = _int32("max_num_batched_tokens", max_num_batched_tokens)
        c.num_threads = _int32("num_threads", num_threads)
        c.max_logprobs = _int32("max_logprobs", max_logprobs)
        c.enable_prefix_caching = enable_prefix_caching
        c.programmatic_launch = programmatic_launch
        if async_scheduling is not None:
            c.async_scheduling = <cpp_bool>bool(async_scheduling)
        c.record_steps = record_steps
        if seed is not None:
            c.seed = _seed(seed)
        c.on_layer_loaded = neox.neox_told(<PyObject*>on_layer_loaded)
        c.tensor_parallel_size = _int32("tensor_parallel_size", tensor_parallel_size)
        c.pipeline_parallel_size = _int32("pipeline_parallel_size", pipeline_parallel_size)
        c.ranks, c.mpi_library, c.comm_timeout = ranks, mpi_library, _float("comm_timeout", comm_timeout)
        c.devices = [_int32("devices", gpu) for gpu in devices]
        c.custom_all_reduce = custom_all_reduce
        if mpi_comm is not None:
            c.mpi_comm = _int32("mpi_comm", mpi_comm)
        with nogil:
            self.engine.reset(new neox.Engine(c))

    def __dealloc__(self):
        with nogil:  # it joins threads
            self.engine.reset()

    def set_vocabulary(self, list table):
        cdef neox.Vocabulary vocabulary
        vocabulary.bytes = table
        with nogil:
            self.engine.get().set_vocabulary(vocabulary)

    def submit(self, const int32_t[::1] ids not None, params, str task="", const float[:, ::1] embeds=None):
        cdef neox.SamplingParams c
        cdef neox.Prompt prompt
        cdef uint64_t request_id
        _fill(c, params)
        prompt.ids = _ids(ids)
        prompt.task = task
        if embeds is not None and embeds.shape[0] * embeds.shape[1]:
            prompt.embeds = span[const_float](&embeds[0, 0], <size_t>(embeds.shape[0] * embeds.shape[1]))
        with nogil:
            request_id = self.engine.get().submit(prompt, c)
        return request_id

    def cancel(self, request_id):
        if not 0 <= request_id < 2**64:
            return
        cdef uint64_t c = request_id
        with nogil:
            self.engine.get().cancel(c)

    def step(self, sink):
        # The deltas go straight into `sink`: a signal handler may raise as soon as this returns, and other calls' deltas must not be lost.
        cdef vector[neox.Delta] deltas
        with nogil:
            deltas = self.engine.get().step()
        cdef list out = deltas
        for delta in out:
            (<dict>delta)["finish"] = _FINISH[(<dict>delta)["finish"]]
            kind = (<dict>delta).pop("error_kind")
            if (<dict>delta)["error"]:
                error = NumericalError if kind == <int>neox.ErrorKind.numerical else ValueError
                (<dict>delta)["error"] = error((<dict>delta)["error"])
        sink.extend(out)

    def has_work(self):
        cdef bint work
        with nogil:
            work = self.engine.get().has_work()
        return work

    def stats(self):
        cdef neox.Stats stats
        with nogil:
            stats = self.engine.get().stats()
        return stats

    def forward(self, const int32_t[:, ::1] ids not None, float[:, :, ::1] out not None):
        cdef int64_t batch = ids.shape[0], length = ids.shape[1]
        cdef neox.Ids flat = neox.Ids(&ids[0, 0] if batch * length else NULL, <size_t>(batch * length))
        cdef size_t size = out.shape[0] * out.shape[1] * out.shape[2]
        cdef span[float] logits = span[float](&out[0, 0, 0] if size else NULL, size)
        with nogil:
            self.engine.get().forward(flat, batch, length, logits)

    def info(self):
        cdef neox.EngineInfo info
        with nogil:
            info = self.engine.get().info()
        cdef dict out = info
        for task in out["tasks"]:
            task["type"] = _TASKS[task["type"]]
        return out

    def meet(self, str call):
        cdef neox.string c = call
        with nogil:
            self.engine.get().meet(c)

    def follow(self):
        cdef neox.string word
        with nogil:
            word = self.engine.get().follow()
        return PyBytes_FromStringAndSize(word.data(), <Py_ssize_t>word.size())

    def release(self, bytes word):
        cdef neox.string c = word
        with nogil:
            self.engine.get().release(c)

    def failed(self):
        return self.engine.get() == NULL or self.engine.get().failed()


include "_checkpoint.pxi"
