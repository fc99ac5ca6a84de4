"""The C++ engine, on token ids. The package's own classes are what to use; this is what they stand on."""

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .params import SamplingParams

class NumericalError(RuntimeError):
    """NaN or infinity where a finite number was due."""

def validate(params: SamplingParams) -> None: ...
def build_info() -> list[str]:
    """What this build holds and why a part is missing, one line each."""

def version() -> str: ...
def read_bandwidth(threads: int) -> float:
    """How fast so many threads together read memory that is in no cache, in bytes/s; 0 threads = the cores this process may use."""

def triad_bandwidth(threads: int) -> float:
    """How fast they read two arrays and write a third, in bytes/s as STREAM counts them."""

def int8_peak(threads: int) -> float:
    """Operations/s of products of bytes summed into 32 bits, out of registers alone."""

def int8_instruction() -> str:
    """What int8_peak measures."""

def gpu_count() -> int:
    """How many GPUs an engine may take; 0 also where this build has no CUDA backend."""

def gpu_report() -> list[str]:
    """Each of them, which others it reaches, and the NCCL that would connect them."""

def gpu_read_bandwidth() -> float:
    """How fast the GPU reads its own memory, in bytes/s; NotImplementedError where this build has no CUDA backend."""

def gpu_matmul_peak(dtype: str) -> float:
    """FLOP/s of cuBLASLt's product of two random 8192 x 8192 matrices of "float32" (without TF32), "float16" or "bfloat16"."""

class Checkpoint:
    """The tensors of a checkpoint in any form but "dummy", by HuggingFace's names, or of one file (.safetensors, torch.save) by its own.

    path: a folder or a file; load_format: as Engine's; model_config: config.json's text, where the folder has none and its form needs one.
    Any thread may read.
    """

    def __init__(self, path: str | os.PathLike[str], load_format: str = "auto", model_config: str = "") -> None: ...
    def names(self) -> list[str]:
        """Sorted; the tensors of other types than float32, float16, bfloat16 and float64 are left out."""

    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str:
        """ "float32", "float16" or "bfloat16"; what a file holds in float64 is float32 here."""

    def read(self, name: str) -> NDArray[Any]:
        """Read-only float32, float16 or, for bfloat16, uint16 with its bits. A view of the mapped file where it can be, else a copy."""

    def same(self, a: str, b: str) -> bool:
        """Whether two tensors have the same type, shape and bits."""

    def done_with(self, name: str) -> None:
        """Lets its pages leave memory; arrays of it stay valid, and bring them back when they are looked at."""

def quantize(mode: str, group: int, weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32], float, float]:
    """A matrix [rows, cols], contiguous, of float32, float16 or, as uint16, bfloat16 -> integers [rows, cols], scales [rows, groups], the
    sum of the squared errors and that of the squared weights. Without the GIL, in the calling thread.
    """

def training_step(path: str | os.PathLike[str]) -> str:
    """The folder with layer files of EleutherAI's GPT-NeoX: `path`, what its file `latest` names, or its only global_step folder; or ""."""

class Engine:
    def __init__(
        self,
        *,
        model: str,
        load_format: str,
        model_config: str,
        dtype: str,
        quantization: str,
        quantization_group_size: int,
        device: str,
        kv_cache_dtype: str,
        isa: str,
        attention: str,
        unfused_scores: str,
        gemm_config: str,
        deterministic: bool,
        kv_cache_memory: int,
        block_size: int,
        max_model_len: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        num_threads: int,
        max_logprobs: int,
        enable_prefix_caching: bool,
        async_scheduling: bool | None,
        record_steps: bool,
        programmatic_launch: bool,
        seed: int | None,
        on_layer_loaded: Callable[[int, int], None],
        tensor_parallel_size: int,
        pipeline_parallel_size: int,
        ranks: str,
        mpi_comm: int | None,
        mpi_library: str,
        comm_timeout: float,
        devices: list[int],
        custom_all_reduce: bool,
        tasks: Iterable[tuple[str, str, NDArray[np.float32]]],
        task_folder: str | None,
    ) -> None:
        """tasks: name, "prefix" or "tuning", and the values end to end; task_folder: of FasterTransformer's files, with a config.ini."""

    def set_vocabulary(self, table: list[bytes]) -> None: ...
    def submit(self, ids: NDArray[np.int32], params: SamplingParams, task: str = "", embeds: NDArray[np.float32] | None = None) -> int: ...
    def cancel(self, request_id: int) -> None: ...
    def step(self, sink: deque[dict[str, Any]] | list[dict[str, Any]]) -> None:
        """Appends one dict per C++ Delta: its fields, a TokenLogprob being a dict of its own."""

    def has_work(self) -> bool: ...
    def stats(self) -> dict[str, Any]: ...
    def forward(self, ids: NDArray[np.int32], out: NDArray[np.float32]) -> None: ...
    def info(self) -> dict[str, Any]: ...
    def meet(self, call: str) -> None: ...
    def follow(self) -> bytes: ...
    def release(self, word: bytes) -> None: ...
    def failed(self) -> bool: ...
