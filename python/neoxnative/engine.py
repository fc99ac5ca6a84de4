"""Text in, text out: prompts, tokenizer, and any number of calls and threads over one native engine."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _core, environment
from .driver import AsyncCalls
from .hub import resolve_model, resolve_tokenizer
from .outputs import Delta, EngineInfo, RequestOutput, ScoreOutput, Stats
from .params import SamplingParams, dtype_name
from .progress import announced
from .prompt_learning import PromptLearning, check_shapes, prompt_options
from .prompts import Prompt, Prompts, TokenPrompt, naming, read_prompt, token_array
from .ranks import MpiRanks, born_together, collective, mpi_options
from .requests import Request, paired, raise_if_all_failed
from .tensors import TensorOutput, read_call, write_outputs
from .tokenizer import load_tokenizer, open_tokenizer
from .training import own_files

DEMO_MODEL = Path(__file__).with_name("models") / "classics-7m"


class Engine(AsyncCalls):
    """A loaded model and its requests.

    Any number of `generate`, `stream` and `submit` calls may be open at once, in any number of threads: their requests share the steps.
    Errors: FileNotFoundError, ValueError (an option, a config, a file's content, a prompt), NotImplementedError (well-formed, but not
    something this build does), MemoryError, NumericalError, RuntimeError.

    model: a folder: HuggingFace's (config.json, weights, tokenizer.json), a GPT-NeoX training's, or FasterTransformer's (<N>-gpu, or where
        they are); or a name on the hub; None = the demo
    revision: of a model by name: a branch, tag or commit; None = the main branch
    tokenizer: a tokenizer.json or spiece.model, its folder or a name; None = the model's, and where it has none the engine works on ids
    load_format: "auto" (what is there), "safetensors", "pt" (pytorch_model.bin), "eleutherai" (layer_*.pt and yml of a training), "ft"
        (FasterTransformer's); or "dummy": random weights of the configuration's shape, for measuring
    dtype: of the weights: "auto" (the checkpoint's; float32 for the demo model), "float32", "float16" or "bfloat16"
    quantization: of the matrices on a CPU: "none", "int8", "int4", "w8a8" or "w4a8"; None = what the checkpoint has
        int8: integers with a scale for each output; int4: with one for each group of inputs. w8a8 and w4a8, the fast ones: the same
        integers, multiplied by inputs that become 8-bit integers, too. The head has 8 bits in all four, the embedding keeps dtype
    quantization_group_size: inputs that share a scale, with int4 and w4a8: 32, 64 or 128; None = the checkpoint's, else 64
    device: "auto", "cpu" or "cuda"
    kv_cache_dtype: "auto" (dtype), "float32", "float16", "bfloat16", or on a CPU "int8", with a scale for each position and head
    kv_cache_memory: bytes of KV cache of each rank; None = what is sensible for the device
    block_size: positions in a page of the KV cache, a multiple of 16
    max_model_len: positions of one request, prompt and continuation; None = the model's max_position_embeddings
    max_num_seqs: sequences in one step at most
    max_num_batched_tokens: tokens in one step at most; None = 256 on a CPU, on a GPU 4096 / pipeline stages, and 1024 in `neoxnative serve`
    num_threads: CPU threads of each rank; None = the cores this process may use, but one for each of several ranks
    max_logprobs: of SamplingParams.logprobs and prompt_logprobs at most
    enable_prefix_caching: requests with a common beginning share its pages
    async_scheduling: plan a step while the one before it runs; None = where the device runs beside the host, which a CPU does not
    record_steps: on a GPU, run small steps as recorded CUDA graphs; False launches the same kernels one by one, with the same results
    programmatic_launch: CUDA kernels may start, and read weights, before the one before them has ended; the results are the same bits
    attention: of prompts on CUDA: "fused", or "unfused": as FasterTransformer without FMHA, with all scores in memory, for comparison; the
        CPU has one attention, and says in info.warnings that it uses it. None = the environment's FMHA_ENABLE, where anything but ON means
        unfused; unset it means fused, unlike FasterTransformer's. On a CPU it chooses nothing, which logging tells at info level
    unfused_scores: type of those scores: "float32", or "model": the weights'. None = the environment's CONTEXT_ATTENTION_BMM1_HALF_ACCUM,
        where ON means model; else float32
    deterministic: on CUDA, the same bits for a request alone, in any batch, in chunks and after a preemption, as always on a CPU; slower
    gemm_config: on CUDA, a file of `gpt_gemm`'s with the algorithms of matrix products; info.warnings says why where it is not used
    seed: of requests that bring none, in [0, 2**64); None = fresh entropy for each
    isa: for tests: the CPU kernels, "auto" (the best this machine runs), "generic", "avx2", "avx512", "avx512vnni"
    tensor_parallel_size: ranks that share every layer; must divide the attention heads and the intermediate size
    pipeline_parallel_size: stages of layers, each of tensor_parallel_size ranks; several steps are then on their way at once
    comm: a communicator of mpi4py: its processes are the ranks, and all make this Engine; None = the ranks are threads of this process
    devices: the GPUs that this machine's ranks take, in their order, of those that CUDA sees; [0, 0] lets two share one. None = 0, 1, ...
    custom_all_reduce: GPUs of one machine may add up with kernels of this library's own; False = NCCL alone
    comm_timeout: seconds after which a rank that does not answer, or died, ends the others with a RuntimeError
    prompt_learning: tasks that a prompt may name: {name: float array}, [layers, 2, heads, length, head_dim] for a prefix (keys as attention
        uses them, rotated for positions 0, 1, ..., and values: HuggingFace's past_key_values), [length, hidden] for embeddings
        (p/prompt-tuning), None for no prompt; or the folder of FasterTransformer's files and config.ini. They count in max_model_len

    Data types may also be numpy's. With `comm`, `generate`, `score` and `forward` are called by all ranks together with the same arguments,
    and return the same; `submit`, `step`, `stream` and `cancel` are rank 0's, while the others are in `follow`. After a fault a process
    leaves without MPI_Finalize, with exit code 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        load_format: str = "auto",
        dtype: str | DTypeLike = "auto",
        quantization: str | None = None,
        quantization_group_size: int | None = None,
        device: str = "auto",
        kv_cache_dtype: str | DTypeLike = "auto",
        kv_cache_memory: int | None = None,
        block_size: int = 16,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int | None = None,
        num_threads: int | None = None,
        max_logprobs: int = 20,
        enable_prefix_caching: bool = True,
        async_scheduling: bool | None = None,
        record_steps: bool = True,
        programmatic_launch: bool = True,
        attention: str | None = None,
        unfused_scores: str | None = None,
        deterministic: bool = False,
        gemm_config: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        isa: str = "auto",
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        comm: Any = None,
        devices: Sequence[int] | None = None,
        custom_all_reduce: bool = True,
        comm_timeout: float = 60.0,
        prompt_learning: PromptLearning | None = None,
    ) -> None:
        if model is None and dtype_name("dtype", dtype) == "auto":
            dtype = "float32"
        folder = resolve_model(DEMO_MODEL if model is None else model, revision, weights=load_format != "dummy")
        model_config, own_tokenizer = own_files(folder)
        tokenizer_path = own_tokenizer if tokenizer is None else resolve_tokenizer(tokenizer)
        with announced(f"loading {'the demo model' if model is None else model} ...") as tell, born_together(comm):
            self._core = _core.Engine(
                model=str(folder),
                load_format=load_format,
                model_config=model_config,
                dtype=dtype_name("dtype", dtype),
                quantization="auto" if quantization is None else quantization,
                quantization_group_size=quantization_group_size or 0,
                device=device,
                kv_cache_dtype=dtype_name("kv_cache_dtype", kv_cache_dtype),
                isa=isa,
                kv_cache_memory=kv_cache_memory or 0,
                block_size=block_size,
                max_model_len=max_model_len or 0,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens or 0,
                num_threads=num_threads or 0,
                max_logprobs=max_logprobs,
                enable_prefix_caching=enable_prefix_caching,
                async_scheduling=async_scheduling,
                record_steps=record_steps,
                programmatic_launch=programmatic_launch,
                attention=environment.attention() if attention is None else attention,
                unfused_scores=environment.unfused_scores() if unfused_scores is None else unfused_scores,
                gemm_config="" if gemm_config is None else os.fspath(gemm_config),
                on_layer_loaded=tell,
                seed=seed,
                tensor_parallel_size=tensor_parallel_size,
                pipeline_parallel_size=pipeline_parallel_size,
                devices=list(devices or ()),
                custom_all_reduce=custom_all_reduce,
                comm_timeout=comm_timeout,
                **mpi_options(comm),
                deterministic=deterministic,
                **prompt_options(prompt_learning),
            )
        self.info = EngineInfo.of(self._core.info())
        check_shapes(prompt_learning, self.info)
        if attention is None:
            environment.settle(self.info)
        self._ranks = MpiRanks(self._core, self.info.rank) if comm is not None and self.info.world_size > 1 else None
        folders = (folder, Path(self.info.model))
        self.tokenizer = load_tokenizer(*folders) if tokenizer_path is None else open_tokenizer(tokenizer_path)
        if self.tokenizer is not None:
            self._core.set_vocabulary(self.tokenizer.bytes_table())
        self._changed = threading.Condition()  # guards the four below
        self._stepping = False
        self._requests: dict[int, Request] = {}
        self._inbox: deque[dict[str, Any]] = deque()  # deltas of the last step, on their way to their requests' queues
        self._raw_queue: deque[Delta] = deque()  # deltas of requests from submit()
        self._raw_step = threading.Lock()

    @collective
    def generate(self, prompts: Prompts, params: SamplingParams | Sequence[SamplingParams] | None = None) -> list[RequestOutput]:
        """Continues every prompt and returns one RequestOutput each, in order.

        prompts: one prompt or many: text, a list of texts, a list of ids, a list of id lists, or an int array [length] or [batch, length];
            or a dict, or list of them: see PromptDict.
        params: one for all, or one for each; None = SamplingParams().
        A refused prompt raises, and the call's other requests are cancelled. A request that fails later has finish_reason "error"; only
        if all failed, the first one's error is raised. Ctrl-C cancels the call's requests.
        """
        queue: deque[Delta] = deque()
        outputs: dict[int, RequestOutput] = {}
        pairs = paired(prompts, params, self._read)
        try:
            ids = []
            for i, (tokens, param) in enumerate(pairs):
                with naming(i):
                    ids.append(self._submit(tokens, param, queue))
            while len(outputs) < len(ids):
                for delta in self._next(queue):
                    if delta.output is not None:
                        outputs[delta.request_id] = delta.output
        finally:
            self._abandon(queue)
        return raise_if_all_failed([outputs[request_id] for request_id in ids])

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Continues one prompt and yields each step's Delta as it comes. The request starts with the loop; leaving the loop cancels it."""
        self._lead("stream")
        return self._stream(self._read(prompt), params or SamplingParams())

    def _stream(self, prompt: TokenPrompt, params: SamplingParams) -> Iterator[Delta]:
        queue: deque[Delta] = deque()
        try:
            self._submit(prompt, params, queue)
            finished = False
            while not finished:
                for delta in self._next(queue):
                    finished = delta.finished
                    if delta.output is not None and delta.output.outputs[delta.index].error is not None:
                        raise delta.output.outputs[delta.index].error  # type: ignore[misc]
                    yield delta
        finally:
            self._abandon(queue)

    def submit(self, prompt: Prompt, params: SamplingParams | None = None) -> int:
        """Queues a request for `step` and returns its id. Safe from any thread."""
        self._lead("submit")
        return self._submit(self._read(prompt), params or SamplingParams(), self._raw_queue)

    def step(self) -> list[Delta]:
        """Runs one step, and returns what the requests of `submit` got since the last call; a request's last Delta holds its output.

        RuntimeError if another thread is in `step` already.
        """
        self._lead("step")
        if not self._raw_step.acquire(blocking=False):
            raise RuntimeError("step() is running in another thread: one thread steps, any thread may submit and cancel")
        try:
            return list(self._next(self._raw_queue))
        finally:
            self._raw_step.release()

    def has_work(self) -> bool:
        """Whether a request of `submit` has more to give to `step`."""
        with self._changed:
            return bool(self._raw_queue) or any(request.queue is self._raw_queue for request in self._requests.values())

    def cancel(self, request_id: int) -> None:
        """Ends a request at the next step, with finish_reason "cancelled"; an unknown or ended id is ignored. Safe from any thread."""
        self._core.cancel(request_id)

    @collective
    def forward(self, input_ids: ArrayLike) -> NDArray[np.float32]:
        """Logits of every position: integers [batch, length] -> float32 [batch, length, vocab]. Keeps nothing in the KV cache."""
        ids = token_array(input_ids, "input_ids", dimensions=2)
        out = np.empty((*ids.shape, self.info.vocab), np.float32)
        with self._turn(lambda: False):
            self._core.forward(ids, out)
        return out

    def generate_ids(
        self,
        input_ids: ArrayLike,
        input_lengths: ArrayLike | None = None,
        *,
        request_output_len: ArrayLike = 32,
        beam_width: int = 1,
        start_id: int | None = None,
        end_id: ArrayLike | None = None,
        runtime_top_k: ArrayLike = 0,
        runtime_top_p: ArrayLike = 0.0,
        temperature: ArrayLike = 1.0,
        repetition_penalty: ArrayLike = 1.0,
        presence_penalty: ArrayLike = 0.0,
        min_length: ArrayLike = 0,
        len_penalty: ArrayLike = 0.0,
        beam_search_diversity_rate: ArrayLike = 0.0,
        early_stopping: bool | Literal["never"] = False,
        random_seed: ArrayLike = 0,
        bad_words_list: ArrayLike | None = None,
        stop_words_list: ArrayLike | None = None,
        top_p_decay: ArrayLike = 1.0,
        top_p_min: ArrayLike = 1e-6,
        top_p_reset_ids: ArrayLike = -1,
        log_probs: Literal["before", "after"] = "before",
        prompt_learning_task_name_ids: ArrayLike | None = None,
        request_prompt_embedding: ArrayLike | None = None,
        request_prompt_lengths: ArrayLike | None = None,
        request_prompt_type: ArrayLike | None = None,
        padded_lengths: bool = False,
    ) -> TensorOutput:
        """FasterTransformer's call: a batch of ids in, ids, lengths and log-probs out. The names are its own.

        input_ids: integers [B, longest prompt], filled up on the right; input_lengths: a scalar, [1] or [B], None = all as long as that
        start_id: the prompt of empty rows, which is left out of output_ids
        end_id: ends a row, a scalar or [B]; None = the model's first EOS id, or its first id where it has none
        runtime_top_k, runtime_top_p: both 0 is greedy; with top_k alone 0 is a top_p of 1
        random_seed: with one seed row i has the draws of sample i of a request of that seed; with [B] each row those of sample 0 of its own
        bad_words_list, stop_words_list: [2, n] or [B, 2, n]: ids end to end, and where each list of them ends, with -1 to fill up
        log_probs: of the model's own distribution, or of that "after" penalties and temperature, as FasterTransformer's
        prompt_learning_task_name_ids: [B] numbers of info.tasks; a tuning task's ids from info.prompt_learning_start_id on are its virtual
            tokens, and are not in output_ids
        request_prompt_embedding, request_prompt_lengths, request_prompt_type: soft prompts [B, longest, hidden], [B], [B] of 1
        padded_lengths: sequence_length counts a prompt's padding, as FasterTransformer's does
        The others are a scalar, [1] or [B] each. A row that fails raises its error.
        """
        arguments = {name: value for name, value in locals().items() if name not in ("self", "padded_lengths")}
        call = read_call(self.info, **arguments)
        outputs = self.generate(call.prompts, call.params) if call.prompts else []
        return write_outputs(outputs, call, padded_lengths=padded_lengths)

    @collective
    def score(self, prompts: Prompts, *, start: int = 0) -> list[ScoreOutput]:
        """How probable each token of each prompt is, given those before it: one ScoreOutput each, in order.

        prompts: as `generate` takes them.
        start: the first token to score; what stands before may come from the prefix cache. A prompt's first token has no probability.
        """
        params = SamplingParams(max_tokens=0, prompt_logprobs=0, prompt_logprobs_start=start)
        scores = []
        for output in self.generate(prompts, params):
            if output.outputs[0].error is not None:
                raise output.outputs[0].error
            pairs = zip(output.prompt_token_ids, output.prompt_logprobs or [], strict=True)
            logprobs = [None if entry is None else entry[token].logprob for token, entry in pairs]
            scores.append(ScoreOutput(output.prompt, output.prompt_token_ids, logprobs))
        return scores

    def follow(self) -> None:
        """On MPI ranks other than 0: takes part in what rank 0 does by itself, until rank 0 calls `release` or ends."""
        if self._ranks is None:
            raise RuntimeError("follow() is for an Engine of several MPI processes (comm=...): this one has no rank 0 to follow")
        self._ranks.follow()

    def release(self) -> None:
        """On rank 0: lets the other MPI ranks return from `follow`. Nothing to do where nobody follows."""
        if self._ranks is not None:
            self._ranks.release()

    def _lead(self, what: str) -> None:
        if self._ranks is not None:
            self._ranks.lead(what)

    @property
    def stats(self) -> Stats:
        """Counts of requests, tokens, pages and time, as of the end of the last step. Safe from any thread."""
        return Stats(**self._core.stats())

    def _read(self, prompt: Prompt) -> TokenPrompt:
        return read_prompt(prompt, self.tokenizer, self.info)

    def _submit(self, prompt: TokenPrompt, params: SamplingParams, queue: deque[Delta]) -> int:
        with self._changed:  # so that no step of another thread delivers before the request is known here
            request_id = self._core.submit(prompt.ids, params, prompt.task, prompt.embeds)
            self._requests[request_id] = Request(request_id, prompt, params, self.tokenizer, queue)
        return request_id

    def _abandon(self, queue: deque[Delta]) -> None:
        """Cancels what a call leaves unfinished; what the engine still says of it is dropped."""
        with self._changed:
            for request_id in [i for i, request in self._requests.items() if request.queue is queue]:
                self._core.cancel(request_id)
                del self._requests[request_id]

    def _next(self, queue: deque[Delta]) -> Iterator[Delta]:
        """What is in the queue; if nothing is, after one step, which another thread may run."""
        with self._turn(lambda: bool(queue)) as mine:
            if mine:
                self._core.step(self._inbox)
        while queue:
            yield queue.popleft()

    @contextmanager
    def _turn(self, served: Callable[[], bool]) -> Iterator[bool]:
        """Yields True to the one thread that may use the engine now, or False as soon as others' steps have `served` this one."""
        mine = False
        try:
            with self._changed:
                self._changed.wait_for(lambda: served() or not self._stepping)
                if not served():
                    mine = self._stepping = True
            yield mine
        finally:
            if mine:
                with self._changed:
                    self._stepping = False
                    self._deliver()
                    self._changed.notify_all()

    def _deliver(self) -> None:
        while self._inbox:
            raw = self._inbox.popleft()
            request = self._requests.get(raw["request_id"])
            if request is None:
                continue
            request.queue.append(request.take(raw))
            if request.queue[-1].finished:
                del self._requests[raw["request_id"]]
