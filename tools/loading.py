#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""On a GPU: how fast weights come from the disk, beside what reading the files and copying as much from pinned memory take; and how soon an
engine is ready, weights aside.

python tools/loading.py FOLDER [--layers N] [--rounds N] [--keep]

Writes GPT-NeoX-20B's shape of N layers as float16 safetensors, a file a layer, into FOLDER, and removes them afterwards. Before each
reading the files leave the page cache. Medians of the rounds of
    read     all files from first to last byte by one thread, 16 MiB at a time, into pinned memory
    readers  the same by 8 threads, 2 MiB at a time
    copy     as many bytes from pinned memory to the GPU
    load     making an engine of the files, less making one of the same shape with random weights
The limit is a read and then a copy. Ready: from the start of a new Python process to the first token of 44 layers with random weights.
"""

import argparse
import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from neoxnative import Engine, SamplingParams

HIDDEN, INNER, VOCAB = 6144, 24576, 50432
CONFIG = {
    "model_type": "gpt_neox",
    "hidden_size": HIDDEN,
    "num_attention_heads": 64,
    "intermediate_size": INNER,
    "vocab_size": VOCAB,
    "max_position_embeddings": 2048,
    "rotary_pct": 0.25,
    "hidden_act": "gelu_fast",
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
NORM = {"weight": [HIDDEN], "bias": [HIDDEN]}
LAYER = {
    "input_layernorm": NORM,
    "post_attention_layernorm": NORM,
    "attention.query_key_value": {"weight": [3 * HIDDEN, HIDDEN], "bias": [3 * HIDDEN]},
    "attention.dense": {"weight": [HIDDEN, HIDDEN], "bias": [HIDDEN]},
    "mlp.dense_h_to_4h": {"weight": [INNER, HIDDEN], "bias": [INNER]},
    "mlp.dense_4h_to_h": {"weight": [HIDDEN, INNER], "bias": [HIDDEN]},
}
BIG, SMALL, READERS = 16 << 20, 2 << 20, 8
READY = """
import sys
from neoxnative import Engine, SamplingParams
Engine(sys.argv[1], load_format="dummy", device="cuda").generate([1, 2, 3], SamplingParams(max_tokens=1, temperature=0))
"""


def tensors(layer: int, layers: int) -> dict[str, list[int]]:
    """name -> shape of what a layer's file holds."""
    prefix = f"gpt_neox.layers.{layer}."
    out = {f"{prefix}{module}.{part}": shape for module, parts in LAYER.items() for part, shape in parts.items()}
    if layer == 0:
        out["gpt_neox.embed_in.weight"] = [VOCAB, HIDDEN]
    if layer == layers - 1:
        out |= {f"gpt_neox.final_layer_norm.{part}": shape for part, shape in NORM.items()} | {"embed_out.weight": [VOCAB, HIDDEN]}
    return out


def write_config(folder: Path, layers: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    return folder


def write_weights(folder: Path, layers: int) -> list[Path]:
    """Small random values, the same block of them over and over, from another place in each tensor."""
    values = np.random.default_rng(0).normal(0, 0.01, 1 << 25).astype(np.float16)
    files, index = [], {}
    for layer in range(layers):
        path, header, at = folder / f"model-{layer + 1:05}-of-{layers:05}.safetensors", {}, 0
        shapes = tensors(layer, layers)
        for name, shape in shapes.items():
            size = 2 * int(np.prod(shape))
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
            index[name], at = path.name, at + size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for i, shape in enumerate(shapes.values()):
                left, begin = int(np.prod(shape)), i * 1000 % 9973
                while left > 0:
                    part = values[begin : begin + left]
                    file.write(part.data)
                    left, begin = left - len(part), 0
            file.flush()
            os.fsync(file.fileno())
        files.append(path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return files


def drop(files: list[Path]) -> None:
    """Takes the files out of the page cache."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        for file in files:
            with open(file, "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Gpu:
    """The CUDA driver, as far as a copy needs it."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._context, self._host, self._device = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), 0)
        self.call("cuCtxSetCurrent", self._context)
        self.call("cuMemAllocHost_v2", ctypes.byref(self._host), ctypes.c_size_t(BIG))
        self.call("cuMemAlloc_v2", ctypes.byref(self._device), ctypes.c_size_t(BIG))
        self.pinned = memoryview((ctypes.c_char * BIG).from_address(self._host.value or 0)).cast("B")

    def call(self, name: str, *arguments: object) -> None:
        if error := getattr(self._cuda, name)(*arguments):
            raise RuntimeError(f"{name} failed with CUDA error {error}")

    def copy_seconds(self, count: int) -> float:
        start = time.perf_counter()
        for _ in range(0, count, BIG):
            self.call("cuMemcpyHtoDAsync_v2", self._device, self._host, ctypes.c_size_t(BIG), None)
        self.call("cuCtxSynchronize")
        return time.perf_counter() - start


def read_seconds(files: list[Path], pinned: memoryview) -> float:
    start = time.perf_counter()
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            while opened.readinto(pinned):
                pass
    return time.perf_counter() - start


def readers_seconds(files: list[Path]) -> float:
    buffers = [bytearray(SMALL) for _ in range(READERS)]

    def read(reader: int) -> None:
        for file in files:
            with open(file, "rb", buffering=0) as opened:
                for at in range(reader * SMALL, file.stat().st_size, READERS * SMALL):
                    os.preadv(opened.fileno(), [buffers[reader]], at)

    start = time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, range(READERS)))
    return time.perf_counter() - start


def engine_seconds(folder: Path, load_format: str) -> float:
    start = time.perf_counter()
    engine = Engine(folder, load_format=load_format, device="cuda", kv_cache_memory=1 << 30)
    seconds = time.perf_counter() - start
    output = engine.generate([1, 2, 3], SamplingParams(max_tokens=1, temperature=0))[0].outputs[0]
    assert output.error is None, output.error
    del engine
    gc.collect()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the files where they are")
    args = parser.parse_args()

    model = write_config(args.folder / "model", args.layers)
    start = time.perf_counter()
    files = write_weights(model, args.layers)
    total = sum(file.stat().st_size for file in files)
    print(f"{total / 1e9:.2f} GB in {len(files)} files, written in {time.perf_counter() - start:.1f} s", flush=True)
    gpu = Gpu()
    engine_seconds(model, "dummy")  # so that the GPU's modules are loaded
    times: dict[str, list[float]] = {"read": [], "readers": [], "copy": [], "load": []}
    for _ in range(args.rounds):
        for name, measure in {
            "read": lambda: read_seconds(files, gpu.pinned),
            "readers": lambda: readers_seconds(files),
            "copy": lambda: gpu.copy_seconds(total),
            "load": lambda: engine_seconds(model, "auto") - engine_seconds(model, "dummy"),
        }.items():
            drop(files)
            times[name].append(measure())
    found = {name: median(values) for name, values in times.items()}
    for name, seconds in found.items():
        print(f"{name:8}{seconds:8.2f} s{total / seconds / 1e9:8.2f} GB/s   of {', '.join(f'{t:.2f}' for t in times[name])}")
    limit = found["read"] + found["copy"]
    print(f"limit   {limit:8.2f} s{total / limit / 1e9:8.2f} GB/s   load is {100 * limit / found['load']:.0f} % of it", flush=True)
    if not args.keep:
        shutil.rmtree(model)

    whole = write_config(args.folder / "whole", 44)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", READY, whole], check=True)
    print(f"ready with 44 layers after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
