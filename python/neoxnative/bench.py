"""How fast an engine is, beside what the machine can do, measured in the same run.

Prefill: `batch` prompts of random ids, submitted at once, until each has its first token. Its limit is a large matrix product, measured
in every round: on a CPU numpy's, in float32; on a GPU cuBLASLt's, in the model's type. On a CPU it stands beside products of bytes,
too, at the rate of the processor's fastest instruction for them. A prompt of T tokens counts as

    FLOPs = 2 * T * layers * (4 * hidden**2 + 2 * hidden * intermediate) + 2 * hidden * vocab + 4 * layers * hidden * T**2 / 2

that is its matrices for every token, the head for the last one, and the causal half of attention.

Decode: steps in which all of the batch is past its prompt and gets one token each. Its limit is how fast memory is read, measured after
each cell; on a CPU beside STREAM's triad, which writes, too. A step counts as

    bytes = weights without the embedding table + 2 * layers * hidden * size of a KV number * positions of all sequences

since a step reads every matrix once and each sequence's keys and values; a model that fits into a cache may be read faster than that.

With --calls, whole calls of Engine.generate are timed too, as other engines are often measured: the first token is a call for one token,
and a token the difference to a call for new-tokens more, divided by these.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .engine import Engine
from .outputs import Delta, EngineInfo
from .params import SamplingParams

_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SGEMM_SIZE = 4096
_SGEMM = f"""
import time
import numpy as np
a, b = (np.random.default_rng(i).random(({_SGEMM_SIZE}, {_SGEMM_SIZE}), np.float32) for i in range(2))
c, times = np.empty_like(a), []
for _ in range(4):  # the first one warms up
    start = time.perf_counter()
    np.matmul(a, b, out=c)
    times.append(time.perf_counter() - start)
print(min(times[1:]))
"""
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
_SLOWING_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_COLUMNS = "{:>5}{:>8}{:>13}{:>10} {:<15}{:>10}{:>9}{:>10} {:<17}{:>8}{:>10}"
_HEADS = ("batch", "prompt", "first token", "prefill", "", "of matmul", "of int8", "decode", "", "of read", "of triad")
_CALL_COLUMNS = "{:>5}{:>8}{:>13}{:>13}{:>13}{:>10}"
_CALL_HEADS = ("batch", "prompt", "first token", "a token", "limit", "of limit")


@dataclass
class _Cell:
    """What the rounds gave for one batch and one length of prompts."""

    batch: int
    prompt: int
    first_token: list[float] = field(default_factory=list)  # seconds, of each request
    prefill: list[float] = field(default_factory=list)  # tokens/s of each round
    decode: list[float] = field(default_factory=list)
    step_bytes: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)  # bytes/s that the machine reads, right after the round's decode
    triad: list[float] = field(default_factory=list)  # and of its triad, where it is measured
    calls: list[tuple[float, float]] = field(default_factory=list)  # seconds of a call for one token, and of one for new_tokens more


@dataclass(frozen=True)
class _Limits:
    """What the machine that the engine runs on can do."""

    read: Callable[[], float]  # measures bytes/s
    matmul: Callable[[], float]  # measures FLOP/s
    matmul_of: str  # whose product in which type
    triad: Callable[[], float] | None = None  # measures bytes/s
    int8: Callable[[], float] | None = None  # measures operations/s
    int8_of: str | None = None  # of which instruction

    @classmethod
    def of(cls, info: EngineInfo) -> _Limits:
        if info.device == "cuda":
            return cls(_core.gpu_read_bandwidth, lambda: _core.gpu_matmul_peak(info.dtype), f"cuBLASLt, {info.dtype}")
        threads = info.num_threads
        return cls(
            read=lambda: _core.read_bandwidth(threads),
            matmul=lambda: _sgemm_peak(threads),
            matmul_of=f"{_blas()}, float32, {threads} threads",
            triad=lambda: _core.triad_bandwidth(threads),
            int8=lambda: _core.int8_peak(threads),
            int8_of=f"{_core.int8_instruction()}, {threads} threads",
        )


def measure(
    engine: Engine,
    *,
    cells: Sequence[tuple[int, int]],
    new_tokens: int,
    rounds: int,
    calls: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures batches of prompts, and returns the report as JSON takes it.

    engine: without prefix caching and with no other requests
    cells: (batch, length of prompts) of each
    new_tokens: steps of decode in a round
    rounds: each goes over all cells, so that a slow spell of the machine is spread over them
    calls: whole calls of generate are timed too
    tell: is told what comes next
    Combinations for which the engine has no room are left out, and named in the report. ValueError where none is left.
    """
    measured, left_out = [], []
    for batch, prompt in cells:
        reason = _no_room(engine.info, batch, prompt, new_tokens)
        if reason is None:
            measured.append(_Cell(batch, prompt))
        else:
            left_out.append({"batch": batch, "prompt": prompt, "reason": reason})
    if not measured:
        raise ValueError(f"nothing can be measured: {left_out[0]['reason']}" if left_out else "no batch or no prompt was given")
    limits = _Limits.of(engine.info)
    matmul, int8 = [], []
    rng = np.random.default_rng(0)
    for cell in measured:  # what each touches for the first time
        _decode(engine, cell, 1, rng)
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}: the machine's products")
        matmul.append(limits.matmul())
        if limits.int8 is not None:
            int8.append(limits.int8())
        for cell in measured:
            tell(f"round {number + 1} of {rounds}: batch {cell.batch}, prompt {cell.prompt}")
            _run(engine, cell, new_tokens, rng, limits)
            if calls:
                cell.calls.append((_call(engine, cell, 1, rng), _call(engine, cell, 1 + new_tokens, rng)))
    settings = {"new_tokens": new_tokens, "rounds": rounds, "matmul_of": limits.matmul_of, "int8_of": limits.int8_of}
    if engine.info.gemm_config != "none":
        stats = engine.stats
        settings["gemm"] = {"hits": stats.gemm_hits, "misses": stats.gemm_misses}
    return _report(engine.info, measured, left_out, matmul, int8, settings)


def _lead(info: EngineInfo, batch: int, prompt: int) -> int:
    """How many tokens the first sequence may be ahead when the last one starts: each step has this many prompt tokens at least."""
    return math.ceil((batch - 1) * prompt / max(info.max_num_batched_tokens - batch + 1, 1))


def _no_room(info: EngineInfo, batch: int, prompt: int, new_tokens: int) -> str | None:
    if batch > info.max_num_seqs:
        return f"batch {batch} is more than max_num_seqs {info.max_num_seqs}"
    length = prompt + _lead(info, batch, prompt) + new_tokens + 2
    if length > info.max_model_len:
        return f"prompt {prompt} of batch {batch} grows to {length} positions, more than max_model_len {info.max_model_len}"
    pages = batch * math.ceil(length / info.block_size)
    if pages > info.num_blocks:
        return f"batch {batch} with prompt {prompt} needs {pages} pages of the KV cache, of {info.num_blocks}: raise kv_cache_memory"
    return None


def _run(engine: Engine, cell: _Cell, new_tokens: int, rng: np.random.Generator, limits: _Limits) -> None:
    seconds, firsts = _prefill(engine, cell, rng)
    cell.prefill.append(cell.batch * cell.prompt / seconds)
    cell.first_token += firsts
    seconds, tokens, positions = _decode(engine, cell, new_tokens, rng)
    cell.decode.append(tokens / seconds)
    cell.step_bytes.append(_weight_bytes(engine.info) + _kv_bytes(engine.info) * positions)
    cell.read.append(limits.read())
    if limits.triad is not None:
        cell.triad.append(limits.triad())


def _requests(engine: Engine, cell: _Cell, max_tokens: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], SamplingParams]:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    return rng.integers(0, engine.info.vocab, (cell.batch, cell.prompt)), params


def _submit(engine: Engine, cell: _Cell, max_tokens: int, rng: np.random.Generator) -> list[int]:
    prompts, params = _requests(engine, cell, max_tokens, rng)
    return [engine.submit(prompt, params) for prompt in prompts]


def _call(engine: Engine, cell: _Cell, tokens: int, rng: np.random.Generator) -> float:
    """Seconds of a call of generate."""
    prompts, params = _requests(engine, cell, tokens, rng)
    start = time.perf_counter()
    engine.generate(prompts, params)
    return time.perf_counter() - start


def _step(engine: Engine) -> list[Delta]:
    deltas = engine.step()
    for delta in deltas:
        if delta.output is not None and delta.output.outputs[0].error is not None:
            raise delta.output.outputs[0].error
    return deltas


def _prefill(engine: Engine, cell: _Cell, rng: np.random.Generator) -> tuple[float, list[float]]:
    """Seconds until the last first token, and until each."""
    start = time.perf_counter()
    _submit(engine, cell, 1, rng)
    firsts: list[float] = []
    while len(firsts) < cell.batch:
        firsts += [time.perf_counter() - start for _ in _step(engine)]
    return firsts[-1], firsts


def _decode(engine: Engine, cell: _Cell, steps: int, rng: np.random.Generator) -> tuple[float, int, float]:
    """Seconds of `steps` steps with one token for each sequence, the tokens that they gave, and the positions that each read on average."""
    requests = _submit(engine, cell, _lead(engine.info, cell.batch, cell.prompt) + steps + 2, rng)
    waiting, length = set(requests), cell.batch * cell.prompt
    while waiting:
        deltas = _step(engine)
        waiting -= {delta.request_id for delta in deltas}
        length += len(deltas)
    start = time.perf_counter()
    tokens = sum(len(_step(engine)) for _ in range(steps))
    seconds = time.perf_counter() - start
    for request in requests:
        engine.cancel(request)
    while engine.has_work():
        engine.step()
    return seconds, tokens, length + cell.batch * (steps - 1) / 2


def _weight_bytes(info: EngineInfo) -> int:
    return info.weight_bytes - info.vocab * info.hidden * _SIZES[info.dtype]


def _kv_bytes(info: EngineInfo) -> float:
    if info.kv_cache_dtype == "int8":  # and a float32 scale for each head
        return 2 * info.layers * (info.hidden + 4 * info.heads)
    return 2 * info.layers * info.hidden * _SIZES[info.kv_cache_dtype]


def _prefill_flops(info: EngineInfo, prompt: int) -> float:
    matrices = info.layers * (4 * info.hidden**2 + 2 * info.hidden * info.intermediate)
    return 2 * prompt * matrices + 2 * info.hidden * info.vocab + 4 * info.layers * info.hidden * prompt**2 / 2


def _sgemm_peak(threads: int) -> float:
    """FLOP/s of numpy's matrix product in float32, best of 3. In a process of its own: a BLAS reads its number of threads at start."""
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    done = subprocess.run([sys.executable, "-P", "-c", _SGEMM], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"numpy's matrix product could not be measured: {(done.stderr.splitlines() or ['no reason was given'])[-1]}")
    return 2 * _SGEMM_SIZE**3 / float(done.stdout)


def _blas() -> str:
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"numpy {np.__version__} with {blas['name']} {blas['version']}"
    except (TypeError, KeyError):  # before numpy 1.25
        return f"numpy {np.__version__}"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _calls(info: EngineInfo, cell: _Cell, new_tokens: int) -> dict[str, float]:
    """Medians of whole calls, and the time in which memory is read that a step of such a call has to read on average."""
    first, whole = (median(times) for times in zip(*cell.calls))
    positions = cell.batch * (cell.prompt + (new_tokens + 1) / 2)
    limit = (_weight_bytes(info) + _kv_bytes(info) * positions) / median(cell.read)
    return {"first_token_seconds": first, "token_seconds": (whole - first) / new_tokens, "limit_seconds": limit}


def _spread_or_none(values: Sequence[float]) -> dict[str, float] | None:
    return _spread(values) if values else None


def _shares(sizes: Sequence[float], limits: Sequence[float]) -> float | None:
    """The median of each round's share of the limit that was measured in it, None where none was."""
    return median(size / limit for size, limit in zip(sizes, limits)) if limits else None


def _report(
    info: EngineInfo,
    cells: Sequence[_Cell],
    left_out: Sequence[dict[str, Any]],
    matmul: Sequence[float],
    int8: Sequence[float],
    settings: dict[str, Any],
) -> dict[str, Any]:
    described = []
    for cell in cells:
        flops = _prefill_flops(info, cell.prompt) / cell.prompt  # of a token
        products = [rate * flops for rate in cell.prefill]  # FLOP/s of each round
        reads = [rate / cell.batch * size for rate, size in zip(cell.decode, cell.step_bytes)]  # bytes/s
        described.append(
            {
                "batch": cell.batch,
                "prompt": cell.prompt,
                "first_token_seconds": _spread(cell.first_token),
                "prefill_tokens_per_second": _spread(cell.prefill),
                "prefill_flops_per_token": flops,
                "prefill_share_of_matmul": _shares(products, matmul),
                "prefill_share_of_int8": _shares(products, int8),
                "decode_tokens_per_second": _spread(cell.decode),
                "decode_bytes_per_step": median(cell.step_bytes),
                "decode_share_of_read": _shares(reads, cell.read),
                "decode_share_of_triad": _shares(reads, cell.triad),
                "read_bytes_per_second": _spread(cell.read),
                "triad_bytes_per_second": _spread_or_none(cell.triad),
                "calls": _calls(info, cell, settings["new_tokens"]) if cell.calls else None,
            }
        )
    return {
        "engine": {name: value for name, value in asdict(info).items() if name not in ("eos_token_ids", "warnings")},
        "warnings": info.warnings,
        **settings,
        "read_bytes_per_second": _spread([value for cell in cells for value in cell.read]),
        "triad_bytes_per_second": _spread_or_none([value for cell in cells for value in cell.triad]),
        "matmul_flops_per_second": _spread(matmul),
        "int8_operations_per_second": _spread_or_none(int8),
        "blas_environment": {name: os.environ[name] for name in _SLOWING_VARIABLES if name in os.environ and info.device == "cpu"},
        "cells": described,
        "left_out": list(left_out),
    }


def _format_weights(engine: dict[str, Any]) -> str:
    if engine["quantization"] == "none":
        return str(engine["dtype"])
    group = engine["quantization_group_size"]
    return f"{engine['quantization']}{f' in groups of {group}' if group else ''}, else {engine['dtype']}"


def format_report(report: dict[str, Any]) -> str:
    """The report as lines for people."""
    engine = report["engine"]
    rows = [
        ("model", f"{engine['model']}, {engine['parameters']:,} parameters"),
        ("weights", f"{_format_weights(engine)}, {engine['weight_bytes'] / 2**20:,.1f} MiB; KV cache {engine['kv_cache_dtype']}"),
        ("device", f"{engine['device']}, {engine['device_detail']}"),
        ("read limit", _format_limit(report["read_bytes_per_second"], "GB/s")),
        ("matmul limit", f"{_format_limit(report['matmul_flops_per_second'], 'GFLOP/s')}, {report['matmul_of']}"),
    ]
    if report["triad_bytes_per_second"]:
        rows.append(("triad limit", _format_limit(report["triad_bytes_per_second"], "GB/s")))
    if report["int8_operations_per_second"]:
        rows.append(("int8 limit", f"{_format_limit(report['int8_operations_per_second'], 'GOP/s')}, {report['int8_of']}"))
    if "gemm" in report:
        hits, misses = report["gemm"]["hits"], report["gemm"]["misses"]
        rows.append(("gemm_config", f"{engine['gemm_config']}; of all products {hits} take one, {misses} do not"))
    if report["blas_environment"]:
        values = ", ".join(f"{name}={value}" for name, value in report["blas_environment"].items())
        rows.append(("note", f"{values} is set, which may make numpy slower than the machine, and the share of matmul too large"))
    rows += [("warning", warning) for warning in report["warnings"]]
    rows += [("left out", entry["reason"]) for entry in report["left_out"]]
    rows.append(("measured", f"tokens/s, medians of {report['rounds']} rounds (min-max); decode over {report['new_tokens']} steps"))
    lines = [f"{name:<13}{text}" for name, text in rows]
    lines += ["", _COLUMNS.format(*_HEADS), *map(_format_cell, report["cells"])]
    if any(cell["calls"] for cell in report["cells"]):
        lines += ["", _CALL_COLUMNS.format(*_CALL_HEADS), *map(_format_calls, report["cells"])]
    return "\n".join(lines)


def _format_limit(spread: dict[str, float], unit: str) -> str:
    middle, low, high = (spread[name] * 1e-9 for name in ("median", "min", "max"))
    return f"{middle:.1f} {unit} ({low:.1f}-{high:.1f} during the run)"


def _format_calls(cell: dict[str, Any]) -> str:
    first, token, limit = (cell["calls"][name] for name in ("first_token_seconds", "token_seconds", "limit_seconds"))
    times = (f"{seconds * 1e3:.2f} ms" for seconds in (first, token, limit))
    return _CALL_COLUMNS.format(cell["batch"], cell["prompt"], *times, f"{limit / token:.0%}")


def _format_cell(cell: dict[str, Any]) -> str:
    def rates(spread: dict[str, float], digits: int) -> tuple[str, str]:
        middle, low, high = (f"{spread[name]:.{digits}f}" for name in ("median", "min", "max"))
        return middle, f"({low}-{high})"

    def shares(*limits: str) -> list[str]:
        values = [cell[f"{phase}_share_of_{limit}"] for phase, limit in (name.split() for name in limits)]
        return ["-" if value is None else f"{value:.0%}" for value in values]

    first = f"{cell['first_token_seconds']['median'] * 1e3:.1f} ms"
    prefill = (*rates(cell["prefill_tokens_per_second"], 0), *shares("prefill matmul", "prefill int8"))
    decode = (*rates(cell["decode_tokens_per_second"], 1), *shares("decode read", "decode triad"))
    return _COLUMNS.format(cell["batch"], cell["prompt"], first, *prefill, *decode)
