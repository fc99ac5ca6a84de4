#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""On a GPU: gpt_gemm makes its files, the engine takes them and is not the slower for it, and refuses those that it should refuse.

small    a small model: every product of its steps takes its algorithm from the file, appended lines count, the logits are right
refused  files of another GPU, driver or cuBLASLt, cut short, or edited: a warning, and the same tokens and logits as without a file
tune     gpt_gemm's tables for GPT-NeoX-20B with the arguments that --tune names
speed    GPT-NeoX-20B's shape with random weights: wall clock of Engine.generate with a file and without, taking turns, medians
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from neoxnative import Engine, SamplingParams

SHAPE_20B = {"hidden_size": 6144, "num_attention_heads": 64, "intermediate_size": 24576, "vocab_size": 50432}
SHAPE_SMALL = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 5000}
SMALL = "4 1 128 16 64 4096 5000 1 1"  # gpt_gemm's arguments for SHAPE_SMALL in float16
TUNE = ["8 1 32 64 96 24576 50432 1 2", "8 1 32 64 96 24576 50432 1 1", "8 1 32 64 96 24576 50432 0 1", "8 1 32 64 96 24576 50432 2 1"]
SPEED = "64 1 576 64 96 24576 50432 1 1"  # every number of rows that a step may have
ERROR = 5e-3  # relative L2 of logits in float16, by another order of summation
SHORT, SHORT_CALLS = 2048, 5  # prompt tokens of a call for one token that takes less than 150 ms and varies by 2 %; such calls in a round
GREEDY = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)


def write_model(folder: Path, shape: dict[str, int], layers: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "gpt_neox", "num_hidden_layers": layers, "max_position_embeddings": 2048, "rotary_pct": 0.25}
    config |= {"hidden_act": "gelu_fast", "use_parallel_residual": True, "tie_word_embeddings": False, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config | shape))
    return folder


def gpt_gemm(args: argparse.Namespace, folder: Path, arguments: str) -> Path:
    """Runs it in a folder, where its table goes to standard output, and returns the file that it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"$ gpt_gemm {arguments}", flush=True)
    start = time.perf_counter()
    subprocess.run([args.gpt_gemm, *arguments.split()], cwd=folder, check=True)
    print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    return folder / "gemm_config.in"


def open_engine(model: Path, gemm_config: Path | None = None, **options: object) -> Engine:
    options = {"dtype": "float16", "kv_cache_memory": 2**28} | options
    return Engine(model, gemm_config=gemm_config, load_format="dummy", device="cuda", enable_prefix_caching=False, **options)


def prompts(engine: Engine, batch: int, length: int) -> list[list[int]]:
    return np.random.default_rng(batch * 10000 + length).integers(0, engine.info.vocab, (batch, length)).tolist()


def results(engine: Engine) -> tuple[list[list[int]], np.ndarray]:
    """Greedy tokens of batches of several sizes, and logits."""
    tokens = [o.outputs[0].token_ids for batch in (1, 3, 8, 16) for o in engine.generate(prompts(engine, batch, 30), GREEDY)]
    return tokens, engine.forward(np.array(prompts(engine, 4, 40)))


def error_of(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def lines_of(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()[1:]]


def digest(body: str) -> str:
    h = 0xCBF29CE484222325
    for byte in body.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return f"{h:016x}"


def small(args: argparse.Namespace) -> None:
    model = write_model(args.folder / "small", SHAPE_SMALL, 4)
    file = gpt_gemm(args, args.folder / "small", SMALL)
    columns = [len(line) for line in lines_of(file)]
    assert set(columns) == {21}, columns
    plain = open_engine(model)
    expected = results(plain)
    engine = open_engine(model, file)
    print(engine.info.gemm_config)
    got = results(engine)
    stats = engine.stats
    print(f"logits differ by {error_of(got[1], expected[1]):.1e}; {stats.gemm_hits} products with a choice, {stats.gemm_misses} without")
    assert not any("gemm_config" in warning for warning in engine.info.warnings), engine.info.warnings
    assert error_of(got[1], expected[1]) < ERROR
    assert stats.gemm_hits > 0 and stats.gemm_misses == 0, "no step has more rows than the file"
    assert plain.stats.gemm_hits == plain.stats.gemm_misses == 0
    gpt_gemm(args, args.folder / "small", "2 1 4 16 64 4096 5000 2 1 1")
    kinds = {line[4] for line in lines_of(file)}
    assert kinds == {"1", "2"}, kinds
    assert open_engine(model, file, dtype="bfloat16").info.gemm_config != "none"


def refused(args: argparse.Namespace) -> None:
    model = write_model(args.folder / "small", SHAPE_SMALL, 4)
    file = args.folder / "small" / "gemm_config.in"
    if not file.exists():
        gpt_gemm(args, args.folder / "small", SMALL)
    text = file.read_text()
    header, body = text.split("\n", 1)
    place = dict(re.findall(r"; (gpu|driver|cublaslt)=([^;]+)", header))
    print(place)
    files = {name: text.replace(f"{name}={value}", f"{name}=another {value}", 1) for name, value in place.items()}
    files |= {"cut in a line": text[:-20], "cut after a line": "\n".join(text.splitlines()[:-3]) + "\n", "no lines": header + "\n"}
    files |= {"edited": text[:-60] + text[-60:].replace("0.0", "0.1", 1), "empty": "", "not of gpt_gemm": "batch_size, seq_len\n" + body}
    expected = results(open_engine(model))
    for name, content in files.items():
        assert content != text, name
        check_refused(args, model, name, content, expected)
    check_refused_lines(args, model, header, body, expected[1])


def check_refused(args: argparse.Namespace, model: Path, name: str, content: str, expected: tuple[list[list[int]], np.ndarray]) -> None:
    file = args.folder / "refused.in"
    file.write_text(content)
    engine = open_engine(model, file)
    said = [warning for warning in engine.info.warnings if "gemm_config" in warning]
    tokens, logits = results(engine)
    print(f"{name}: {said}")
    assert len(said) == 1 and engine.info.gemm_config == "none"
    assert tokens == expected[0] and (logits == expected[1]).all()


def check_refused_lines(args: argparse.Namespace, model: Path, header: str, body: str, expected: np.ndarray) -> None:
    """Attributes that no algorithm has, in a file whose digest is right: cuBLASLt's check refuses line by line."""
    file = args.folder / "refused.in"
    for column, name, value in ((10, "algoId", 9999), (12, "tile", 9999), (13, "split", 4097), (17, "stages", 999), (19, "cluster", 999)):
        edited = ""
        for line in body.splitlines():
            words = line.split()
            if int(words[10]) < 0:  # a choice without attributes becomes one with some
                words[10:20] = ["66", "0", "20", "1", "0", "0", "0", "35", "0", "2"]
            words[column] = str(value)
            edited += " ".join(words) + "\n"
        file.write_text(re.sub("digest=[0-9a-f]+", f"digest={digest(edited)}", header) + "\n" + edited)
        engine = open_engine(model, file)
        error, stats = error_of(results(engine)[1], expected), engine.stats
        print(f"{name} {value} in all lines: {stats.gemm_hits} accepted, {stats.gemm_misses} refused, logits differ by {error:.1e}")
        assert error < ERROR
        assert stats.gemm_misses > 0 or name not in ("algoId", "tile", "split")


def tune(args: argparse.Namespace) -> None:
    for arguments in args.tune or TUNE:
        gpt_gemm(args, args.folder / arguments.replace(" ", "_"), arguments)


def speed(args: argparse.Namespace) -> None:
    file = args.folder / SPEED.replace(" ", "_") / "gemm_config.in"
    file = file if file.exists() else gpt_gemm(args, file.parent, SPEED)
    model = write_model(args.folder / "20b", SHAPE_20B, args.layers)
    cells = [tuple(map(int, cell.split("x"))) for cell in args.cells.split(",")]
    room = max(batch * (length + args.new_tokens + 32) for batch, length in cells) * 2 * args.layers * SHAPE_20B["hidden_size"] * 2
    engines = {"without": open_engine(model, kv_cache_memory=room), "with": open_engine(model, file, kv_cache_memory=room)}
    print(engines["with"].info.gemm_config, flush=True)
    print(f"{'batch x prompt':>15}{'first token':>34}{'a token':>34}   ms without, with, and how many times as fast")
    worst = min(compare(engines, batch, length, args) for batch, length in cells)
    stats = engines["with"].stats
    print(f"{stats.gemm_hits} products with a choice, {stats.gemm_misses} without; worst cell: {worst:.3f} times as fast as without")
    assert worst >= 0.99


def compare(engines: dict[str, Engine], batch: int, length: int, args: argparse.Namespace) -> float:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for number in range(args.rounds + 1):  # the first one warms up
        for name in sorted(engines, reverse=number % 2 == 1):
            all_ = timed(engines[name], batch, length, 1 + args.new_tokens)
            one = median(timed(engines[name], batch, length, 1) for _ in range(SHORT_CALLS if batch * length <= SHORT else 1))
            if number > 0:
                times[name].append((one, (all_ - one) / args.new_tokens))
    medians = {name: [median(values) * 1e3 for values in zip(*runs)] for name, runs in times.items()}
    ratios = [without / with_ for without, with_ in zip(medians["without"], medians["with"])]
    shown = "".join(f"{medians['without'][i]:12.3f}{medians['with'][i]:12.3f}{ratios[i]:10.3f}" for i in range(2))
    print(f"{f'{batch} x {length}':>15}{shown}", flush=True)
    return min(ratios)


def timed(engine: Engine, batch: int, length: int, tokens: int) -> float:
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    given = prompts(engine, batch, length)
    start = time.perf_counter()
    engine.generate(given, params)
    return time.perf_counter() - start


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace], None]] = {"small": small, "refused": refused, "tune": tune, "speed": speed}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all unless named")
    parser.add_argument("--gpt-gemm", type=os.path.abspath, default="build/bin/gpt_gemm", help="the program")
    parser.add_argument("--folder", type=Path, help="where files go, and are found again (default: a temporary one)")
    parser.add_argument("--tune", action="append", metavar="ARGUMENTS", help=f"of gpt_gemm, may be repeated (default: {'; '.join(TUNE)})")
    parser.add_argument("--layers", type=int, default=44, help="of speed's model; two of them are on the GPU (default: 44)")
    parser.add_argument("--cells", default="1x128,8x32,8x128,32x512,1x1920", help="BATCHxPROMPT of speed (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=32, help="of speed (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, help="of speed (default: 5)")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = (args.folder or Path(temporary)).resolve()
        for name in args.parts or parts:
            print(f"--- {name}", flush=True)
            parts[name](args)


if __name__ == "__main__":
    sys.exit(main())
