#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast GPT-NeoX-20B's shape with random weights runs on one GPU or several: wall clock of Engine.generate, as others are measured.

    python tools/parallel_speed.py -tp 2
    mpirun -n 2 python tools/parallel_speed.py --mpi -tp 2

For each cell the first token (a call for one token) and a token (the difference to a call for 65, divided by 64), medians of three; with
--mixed one load of requests at once, whose lengths a JSON file gives ("input_lengths", "output_lengths"), in output tokens a second, and
with --waits the same in static batches of 32, and the times to a request's first token and between its tokens. Beside the cells the time in
which the GPUs can read what a token needs: all weights and KV pages, each GPU its part, one stage after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from neoxnative import Engine, SamplingParams, _core

SHAPE = {"hidden_size": 6144, "num_attention_heads": 64, "intermediate_size": 24576, "vocab_size": 50432}
NEW = 64
STATIC = 32
ROUNDS = 3


def write_model(folder: Path, layers: int) -> Path:
    config = {"model_type": "gpt_neox", "num_hidden_layers": layers, "max_position_embeddings": 2048, "rotary_pct": 0.25}
    config |= {"hidden_act": "gelu_fast", "use_parallel_residual": True, "tie_word_embeddings": False, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config | SHAPE))
    return folder


def requests(lengths: list[int], tokens: list[int], seed: int) -> tuple[list[list[int]], list[SamplingParams]]:
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(5, 50000, n).tolist() for n in lengths]
    return prompts, [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in tokens]


def call(engine: Engine, lengths: list[int], tokens: list[int], seed: int) -> float:
    """Seconds of a call of generate."""
    prompts, params = requests(lengths, tokens, seed)
    start = time.perf_counter()
    outputs = engine.generate(prompts, params)
    seconds = time.perf_counter() - start
    assert [len(o.outputs[0].token_ids) for o in outputs] == tokens
    return seconds


def cell(engine: Engine, batch: int, length: int, read: float) -> dict[str, object]:
    call(engine, [length] * batch, [2] * batch, 0)
    first = median(call(engine, [length] * batch, [1] * batch, i) for i in range(ROUNDS))
    whole = median(call(engine, [length] * batch, [1 + NEW] * batch, i) for i in range(ROUNDS))
    token = (whole - first) / NEW
    info = engine.info
    weights = info.weight_bytes * info.pipeline_parallel_size  # of one rank of each stage, about
    kv = 2 * 2 * info.hidden * info.layers * batch * (length + NEW / 2) / info.tensor_parallel_size
    return {
        "cell": f"{batch}x{length}",
        "first_token_ms": round(first * 1e3, 2),
        "token_ms": round(token * 1e3, 3),
        "tokens_per_second": round(batch / token, 1),
        "limit_ms": round((weights + kv) / read * 1e3, 3),
    }


def waits(engine: Engine, lengths: list[int], tokens: list[int]) -> dict[str, object]:
    """Milliseconds to the first token and between tokens, of all requests at once, as one that steps the engine sees them."""
    start = time.perf_counter()
    last = {engine.submit(prompt, params): start for prompt, params in zip(*requests(lengths, tokens, 0), strict=True)}
    first, between, begun = [], [], set()
    while engine.has_work():
        deltas = engine.step()
        now = time.perf_counter()
        for delta in deltas:
            if not delta.token_ids:
                continue
            (between if delta.request_id in begun else first).append(now - last[delta.request_id])
            begun.add(delta.request_id)
            last[delta.request_id] = now
    parts = {"first_token": first, "between_tokens": between}
    return {f"{name}_ms_p{q}": round(float(np.percentile(times, q)) * 1e3, 1) for name, times in parts.items() for q in (50, 99)}


def mixed(engine: Engine, file: Path, with_waits: bool) -> dict[str, object]:
    lengths = json.loads(file.read_text())
    inputs, outputs = lengths["input_lengths"], lengths["output_lengths"]
    seconds = call(engine, inputs, outputs, 0)
    result: dict[str, object] = {"mixed_requests": len(inputs), "output_tokens": sum(outputs), "seconds": round(seconds, 2)}
    result |= {"tokens_per_second": round(sum(outputs) / seconds)}
    if not with_waits:
        return result
    static = sum(call(engine, inputs[i : i + STATIC], outputs[i : i + STATIC], 0) for i in range(0, len(inputs), STATIC))
    return result | {f"static_batches_of_{STATIC}": round(sum(outputs) / static)} | waits(engine, inputs, outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-tp", "--tensor-parallel-size", type=int, default=1)
    parser.add_argument("-pp", "--pipeline-parallel-size", type=int, default=1)
    parser.add_argument("--mpi", action="store_true", help="the ranks are the processes that mpirun started")
    parser.add_argument("--devices", type=int, nargs="*")
    parser.add_argument("--layers", type=int, default=44)
    parser.add_argument("--cells", default="1x128,8x128,8x512,32x512,64x576,1x1920", help="BATCHxPROMPT,...")
    parser.add_argument("--mixed", type=Path, metavar="JSON")
    parser.add_argument("--waits", action="store_true", help="of the mixed load; not with --mpi")
    parser.add_argument("--max-num-batched-tokens", type=int)
    parser.add_argument("--no-custom-all-reduce", action="store_true")
    args = parser.parse_args()
    if args.waits and (args.mpi or not args.mixed):
        parser.error("--waits is for --mixed, without --mpi")
    comm = None
    if args.mpi:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        engine = Engine(
            write_model(Path(folder), args.layers),
            load_format="dummy",
            device="cuda",
            enable_prefix_caching=False,
            tensor_parallel_size=args.tensor_parallel_size,
            pipeline_parallel_size=args.pipeline_parallel_size,
            devices=args.devices,
            custom_all_reduce=not args.no_custom_all_reduce,
            max_num_batched_tokens=args.max_num_batched_tokens,
            comm=comm,
        )
        ready = time.perf_counter() - start
    tells = engine.info.rank == 0
    read = _core.gpu_read_bandwidth()
    if tells:
        info = engine.info
        about = {"gpu": info.device_detail, "tp": info.tensor_parallel_size, "pp": info.pipeline_parallel_size, "ranks": info.ranks}
        about |= {"layers": args.layers, "max_num_batched_tokens": info.max_num_batched_tokens, "ready_s": round(ready, 1)}
        print(json.dumps(about | {"read_tb_s": round(read * 1e-12, 3)}), flush=True)
    for batch, length in (map(int, text.split("x")) for text in args.cells.split(",") if text):
        result = cell(engine, batch, length, read)
        if tells:
            print(json.dumps(result), flush=True)
    if args.mixed:
        result = mixed(engine, args.mixed, args.waits)
        if tells:
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    sys.exit(main())
