"""How fast an engine is, beside what the machine can do, measured in the same run.

Prefill: `batch` prompts of random ids, submitted at once, until each has its first token. Its limit is the float32 matrix product of
numpy's BLAS. A prompt of T tokens counts as

    FLOPs = 2 * T * layers * (4 * hidden**2 + 2 * hidden * intermediate) + 2 * hidden * vocab + 4 * layers * hidden * T**2 / 2

that is its matrices for every token, the head for the last one, and the causal half of attention.

Decode: steps in which all of the batch is past its prompt and gets one token each. Its limit is how fast memory is read. A step counts as

    bytes = weights without the embedding table + 2 * layers * hidden * size of a KV number * positions of all sequences

since a step reads every matrix once and each sequence's keys and values; a model that fits into a cache may be read faster than that.
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
_COLUMNS = "{:>5}{:>8}{:>13}{:>10} {:<15}{:>9}{:>10} {:<17}{:>8}"
_HEADS = ("batch", "prompt", "first token", "prefill", "", "of sgemm", "decode", "", "of read")


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


def measure(
    engine: Engine,
    *,
    batches: Sequence[int],
    prompts: Sequence[int],
    new_tokens: int,
    rounds: int,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures every batch with every length of prompts, and returns the report as JSON takes it.

    engine: without prefix caching and with no other requests
    new_tokens: steps of decode in a round
    rounds: each goes over all cells, so that a slow spell of the machine is spread over them
    tell: is told what comes next
    Combinations for which the engine has no room are left out, and named in the report. ValueError where none is left.
    """
    cells, left_out = [], []
    for batch in batches:
        for prompt in prompts:
            reason = _no_room(engine.info, batch, prompt, new_tokens)
            if reason is None:
                cells.append(_Cell(batch, prompt))
            else:
                left_out.append({"batch": batch, "prompt": prompt, "reason": reason})
    if not cells:
        raise ValueError(f"nothing can be measured: {left_out[0]['reason']}" if left_out else "no batch or no prompt was given")
    on_cpu = engine.info.device == "cpu"
    tell("measuring the machine's matrix product")
    sgemm = _sgemm_peak(engine.info.num_threads) if on_cpu else None
    rng = np.random.default_rng(0)
    _decode(engine, cells[0], 1, rng)  # what is touched for the first time
    for number in range(rounds):
        for cell in cells:
            tell(f"round {number + 1} of {rounds}: batch {cell.batch}, prompt {cell.prompt}")
            _run(engine, cell, new_tokens, rng, on_cpu=on_cpu)
    return _report(engine.info, cells, left_out, sgemm, {"new_tokens": new_tokens, "rounds": rounds})


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


def _run(engine: Engine, cell: _Cell, new_tokens: int, rng: np.random.Generator, *, on_cpu: bool) -> None:
    seconds, firsts = _prefill(engine, cell, rng)
    cell.prefill.append(cell.batch * cell.prompt / seconds)
    cell.first_token += firsts
    seconds, tokens, positions = _decode(engine, cell, new_tokens, rng)
    cell.decode.append(tokens / seconds)
    cell.step_bytes.append(_weight_bytes(engine.info) + _kv_bytes(engine.info) * positions)
    if on_cpu:
        cell.read.append(_core.read_bandwidth(engine.info.num_threads))


def _submit(engine: Engine, cell: _Cell, max_tokens: int, rng: np.random.Generator) -> list[int]:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    prompts = rng.integers(0, engine.info.vocab, (cell.batch, cell.prompt))
    return [engine.submit(prompt, params) for prompt in prompts]


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


def _kv_bytes(info: EngineInfo) -> int:
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


def _report(
    info: EngineInfo, cells: Sequence[_Cell], left_out: Sequence[dict[str, Any]], sgemm: float | None, settings: dict[str, int]
) -> dict[str, Any]:
    read = [value for cell in cells for value in cell.read]
    described = []
    for cell in cells:
        flops = _prefill_flops(info, cell.prompt) / cell.prompt  # of a token
        shares = [rate / cell.batch * size / limit for rate, size, limit in zip(cell.decode, cell.step_bytes, cell.read)]
        described.append(
            {
                "batch": cell.batch,
                "prompt": cell.prompt,
                "first_token_seconds": _spread(cell.first_token),
                "prefill_tokens_per_second": _spread(cell.prefill),
                "prefill_flops_per_token": flops,
                "prefill_share_of_sgemm": median(cell.prefill) * flops / sgemm if sgemm else None,
                "decode_tokens_per_second": _spread(cell.decode),
                "decode_bytes_per_step": median(cell.step_bytes),
                "decode_share_of_read": median(shares) if shares else None,
            }
        )
    return {
        "engine": {name: value for name, value in asdict(info).items() if name not in ("eos_token_ids", "warnings")},
        "warnings": info.warnings,
        **settings,
        "read_bytes_per_second": _spread(read) if read else None,
        "sgemm_flops_per_second": sgemm,
        "blas": _blas(),
        "blas_environment": {name: os.environ[name] for name in _SLOWING_VARIABLES if name in os.environ},
        "cells": described,
        "left_out": list(left_out),
    }


def format_report(report: dict[str, Any]) -> str:
    """The report as lines for people."""
    engine, read, sgemm = report["engine"], report["read_bytes_per_second"], report["sgemm_flops_per_second"]
    rows = [
        ("model", f"{engine['model']}, {engine['parameters']:,} parameters"),
        ("weights", f"{engine['dtype']}, {engine['weight_bytes'] / 2**20:,.1f} MiB; KV cache {engine['kv_cache_dtype']}"),
        ("device", f"{engine['device']}, {engine['device_detail']}"),
    ]
    if read and sgemm:
        rows.append(("read limit", f"{read['median'] * 1e-9:.1f} GB/s ({read['min'] * 1e-9:.1f}-{read['max'] * 1e-9:.1f} during the run)"))
        rows.append(("sgemm limit", f"{sgemm * 1e-9:.1f} GFLOP/s, {report['blas']}, {engine['num_threads']} threads"))
    if sgemm and report["blas_environment"]:
        values = ", ".join(f"{name}={value}" for name, value in report["blas_environment"].items())
        rows.append(("note", f"{values} is set, which may make numpy slower than the machine, and the share of sgemm too large"))
    rows += [("warning", warning) for warning in report["warnings"]]
    rows += [("left out", entry["reason"]) for entry in report["left_out"]]
    rows.append(("measured", f"tokens/s, medians of {report['rounds']} rounds (min-max); decode over {report['new_tokens']} steps"))
    lines = [f"{name:<13}{text}" for name, text in rows]
    return "\n".join([*lines, "", _COLUMNS.format(*_HEADS), *map(_format_cell, report["cells"])])


def _format_cell(cell: dict[str, Any]) -> str:
    def rates(spread: dict[str, float], digits: int) -> tuple[str, str]:
        middle, low, high = (f"{spread[name]:.{digits}f}" for name in ("median", "min", "max"))
        return middle, f"({low}-{high})"

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    first = f"{cell['first_token_seconds']['median'] * 1e3:.1f} ms"
    prefill = (*rates(cell["prefill_tokens_per_second"], 0), share(cell["prefill_share_of_sgemm"]))
    decode = (*rates(cell["decode_tokens_per_second"], 1), share(cell["decode_share_of_read"]))
    return _COLUMNS.format(cell["batch"], cell["prompt"], first, *prefill, *decode)
