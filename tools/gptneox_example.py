#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""FasterTransformer's gptneox_example.py on this engine, without torch: its arguments, its lines, numpy and the installed neoxnative.

Without arguments it continues max_batch_size prompts of the end-of-text token alone on the demo model. Ranks are threads, or under mpirun
processes, which takes mpi4py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neoxnative import Engine

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TIMED_CALLS = 10  # and as many before them


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--output_len", type=int, default=32, help="new tokens at most")
    p.add_argument("--beam_width", type=int, default=1, help="from 2 to 64 beam search")
    p.add_argument("--top_k", type=int, default=1, help="draw from the k most probable tokens; 0 = no such limit")
    p.add_argument("--top_p", type=float, default=0.0, help="draw from the tokens that make up p; 0 = no such limit, with top_k 0 greedy")
    p.add_argument("--temperature", type=float, default=1.0, help="0 = greedy")
    p.add_argument("--len_penalty", type=float, default=0.0, help="of beam search: sums are divided by length ** len_penalty")
    p.add_argument("--beam_search_diversity_rate", type=float, default=0.0, help="of beam search")
    p.add_argument("--tensor_para_size", type=int, default=1, help="ranks that share each layer")
    p.add_argument("--pipeline_para_size", type=int, default=1, help="stages that share the layers out")
    p.add_argument("--ckpt_path", help="a <ranks>-gpu folder, what it lies in, or a HuggingFace folder; the demo model if left out")
    p.add_argument("--tokenizer_path", help="a tokenizer.json or its folder; the checkpoint's own if left out")
    p.add_argument("--lib_path", help="of FasterTransformer's library: accepted, and not needed")
    p.add_argument("--sample_input_file", help="prompts, one a line, of which the first max_batch_size are taken")
    p.add_argument("--max_batch_size", type=int, default=8, help="prompts at most")
    p.add_argument("--repetition_penalty", type=float, default=1.0, help="more than 1 makes what is in prompt and output less probable")
    p.add_argument("--max_seq_len", type=int, help="rows end at so many ids, prompt and output; the model's own limit if left out")
    p.add_argument("--inference_data_type", "--data_type", choices=DTYPES, default="fp16", help="of the weights")
    p.add_argument("--time", action="store_true", help=f"time {TIMED_CALLS} more calls, after as many untimed")
    p.add_argument("--enable_random_seed", action="store_true", help="a seed of its own for each prompt, instead of 0 for all")
    return p


def world() -> Any:
    """mpi4py's communicator where mpirun started several ranks, else None."""
    if not any(int(os.environ.get(name, 1)) > 1 for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")):
        return None
    from mpi4py import MPI

    return MPI.COMM_WORLD if MPI.COMM_WORLD.size > 1 else None


def read_contexts(file: str, most: int) -> list[str]:
    lines = Path(file).read_text(encoding="utf-8").splitlines()[:most]
    if not lines:
        raise ValueError(f"{file}: expected one prompt a line, found none")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise ValueError(f"{file}:{number}: expected a prompt, found an empty line")
    return lines


def padded(rows: list[list[int]], fill: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """ids [B, longest] and lengths [B]."""
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.full((len(rows), lengths.max()), fill, np.int32)
    for line, row in zip(ids, rows):
        line[: len(row)] = row
    return ids, lengths


def seeds(rows: int, comm: Any, *, random: bool) -> NDArray[np.int64]:
    """One for each row; ranks have the same."""
    if not random:
        return np.zeros(rows, np.int64)
    drawn = np.random.default_rng().integers(0, 10000, rows)
    return drawn if comm is None else comm.bcast(drawn)  # type: ignore[no-any-return]


def make_engine(args: argparse.Namespace, comm: Any) -> Engine:
    if comm is not None and args.tensor_para_size * args.pipeline_para_size != comm.size:
        ranks = f"tensor_para_size {args.tensor_para_size} * pipeline_para_size {args.pipeline_para_size}"
        raise ValueError(f"{ranks}: expected the number of MPI ranks, {comm.size}")
    return Engine(
        args.ckpt_path,
        tokenizer=args.tokenizer_path,
        dtype=DTYPES[args.inference_data_type],
        max_model_len=args.max_seq_len,
        enable_prefix_caching=False,  # or what --time measures would find the prompts' pages
        tensor_parallel_size=args.tensor_para_size,
        pipeline_parallel_size=args.pipeline_para_size,
        gemm_config="gemm_config.in" if Path("gemm_config.in").exists() else None,
        comm=comm,
    )


def print_arguments(args: argparse.Namespace) -> None:
    print("\n=============== Arguments ===============")
    for name, value in vars(args).items():
        print(f"{name}: {value}")
    print("=========================================\n")


def text_of(engine: Engine, ids: list[int]) -> str:
    return " ".join(map(str, ids)) if engine.tokenizer is None else engine.tokenizer.decode(ids)


def run(args: argparse.Namespace, comm: Any) -> None:
    if args.max_batch_size < 1:
        raise ValueError(f"max_batch_size is {args.max_batch_size}, expected 1 or more")
    contexts = None if args.sample_input_file is None else read_contexts(args.sample_input_file, args.max_batch_size)
    leads = comm is None or comm.rank == 0
    if leads:
        print_arguments(args)
    engine = make_engine(args, comm)
    end_id = (engine.info.eos_token_ids or [0])[0]
    if contexts is None:
        prompts = [[end_id]] * args.max_batch_size
        contexts = [str(end_id) if engine.tokenizer is None else engine.tokenizer.piece(end_id)] * args.max_batch_size
    elif engine.tokenizer is None:
        raise ValueError(f"{engine.info.model} has no tokenizer.json, and sample_input_file holds text: give --tokenizer_path")
    else:
        prompts = [engine.tokenizer.encode(text) for text in contexts]
    ids, lengths = padded(prompts, end_id)
    if leads:
        for warning in engine.info.warnings:
            print(f"[WARNING] {warning}", file=sys.stderr)
        print(f"[INFO] batch size: {len(prompts)}")

    rows = len(prompts)
    arguments = {
        "request_output_len": np.full(rows, args.output_len),
        "beam_width": args.beam_width,
        "end_id": end_id,
        "runtime_top_k": np.full(rows, args.top_k),
        "runtime_top_p": np.full(rows, args.top_p),
        "temperature": np.full(rows, args.temperature),
        "repetition_penalty": np.full(rows, args.repetition_penalty),
        "len_penalty": np.full(rows, args.len_penalty),
        "beam_search_diversity_rate": np.full(rows, args.beam_search_diversity_rate),
        "random_seed": seeds(rows, comm, random=args.enable_random_seed),
    }
    output = engine.generate_ids(ids, lengths, **arguments).output_ids  # [B, W, longest prompt + output_len]
    if leads:
        for i, context in enumerate(contexts):
            for j, tokens in enumerate(output[i].tolist()):
                print(f"[INFO] batch {i}, beam {j}:\n[Context]\n{context}\n\n[Output]\n{text_of(engine, tokens[lengths[i] :])}\n")
    if args.time:
        for _ in range(TIMED_CALLS):
            engine.generate_ids(ids, lengths, **arguments)
        begin = time.perf_counter()
        for _ in range(TIMED_CALLS):
            engine.generate_ids(ids, lengths, **arguments)
        taken = time.perf_counter() - begin
        tokens = TIMED_CALLS * sum(output.shape[2] - int(length) for length in lengths)
        if leads:
            print(
                f"[INFO] FT-GPT generates {TIMED_CALLS} batches, taking {taken:.3f} secs "
                f"to generate {tokens} tokens, {tokens / taken:.3f} tokens/sec."
            )


def main() -> int:
    args = parser().parse_args()
    comm = world()
    try:
        run(args, comm)
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        print(f"gptneox_example.py: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        if comm is not None:
            comm.Abort(1)  # the others wait for this one
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
