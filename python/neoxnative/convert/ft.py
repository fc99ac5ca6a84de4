"""FasterTransformer's layout: what each of its files holds, from HuggingFace's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from .output import Job, write_file
from .source import EMBEDDING, HEAD, Source, shapes
from .values import ITEM_BYTES, Array, cast, widened

Parts = Callable[[Array], Array]  # a tensor as [ranks, ...], each rank's part in its file's order


def jobs(source: Source, ranks: int, dtype: str) -> Iterator[Job]:
    """Everything but config.ini. Files are in `dtype`; ValueError where `ranks` does not divide the model."""
    shape = source.shape
    if ranks < 1 or shape.heads % ranks or shape.inner % ranks:
        sizes = f"the model's {shape.heads} attention heads and intermediate size {shape.inner}"
        raise ValueError(f"the number of ranks is {ranks}, expected a divisor of {sizes}")
    yield _whole(source, EMBEDDING, "model.wte.bin", dtype)
    yield _whole(source, HEAD, "model.lm_head.weight.bin", dtype)
    for part in ("weight", "bias"):
        yield _whole(source, f"gpt_neox.final_layer_norm.{part}", f"model.final_layernorm.{part}.bin", dtype)
    for i in range(shape.layers):
        layer = f"gpt_neox.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            for name in (f"{layer}{norm}.weight", f"{layer}{norm}.bias"):
                yield _whole(source, name, f"{_stem(name)}.bin", dtype)
        for name, parts in _cut(shape.heads, shape.head_dim, ranks).items():
            yield _parted(source, layer + name, parts, ranks, dtype)
        yield Job(f"{layer}attention.dense.bias", 16 * shape.hidden, partial(_dense_biases, source, layer, ranks, dtype))


def _cut(heads: int, head_dim: int, ranks: int) -> dict[str, Parts]:
    """HuggingFace's rows of q, k and v are [heads, 3, head_dim], the files' columns [3, heads / ranks, head_dim]."""
    each = (ranks, heads // ranks, 3, head_dim)
    return {
        "attention.query_key_value.weight": lambda w: w.reshape(*each, -1).transpose(0, 4, 2, 1, 3),
        "attention.query_key_value.bias": lambda b: b.reshape(each).transpose(0, 2, 1, 3),
        "attention.dense.weight": lambda w: w.reshape(len(w), ranks, -1).transpose(1, 2, 0),
        "mlp.dense_h_to_4h.weight": lambda w: w.reshape(ranks, len(w) // ranks, -1).transpose(0, 2, 1),
        "mlp.dense_h_to_4h.bias": lambda b: b.reshape(ranks, -1),
        "mlp.dense_4h_to_h.weight": lambda w: w.reshape(len(w), ranks, -1).transpose(1, 2, 0),
    }


def _stem(name: str) -> str:
    return "model." + name.removeprefix("gpt_neox.")


def _whole(source: Source, name: str, file: str, dtype: str) -> Job:
    def write(folder: Path) -> None:
        write_file(folder / file, source.read(name), dtype)
        source.done_with(name)

    return Job(name, source.bytes(name), write)


def _parted(source: Source, name: str, parts: Parts, ranks: int, dtype: str) -> Job:
    there = name in source  # a model without attention biases has none; the files do

    def write(folder: Path) -> None:
        tensor = source.read(name) if there else np.zeros(3 * source.shape.hidden, np.float32)
        for rank, part in enumerate(parts(tensor)):
            write_file(folder / f"{_stem(name)}.{rank}.bin", part, dtype)
        if there:
            source.done_with(name)

    return Job(name, source.bytes(name) if there else 12 * source.shape.hidden, write)


def _dense_biases(source: Source, layer: str, ranks: int, dtype: str, folder: Path) -> None:
    """The parallel residual's are divided, since each rank adds the sum of both; the sequential residual's are whole."""
    both = []
    for name in (f"{layer}attention.dense.bias", f"{layer}mlp.dense_4h_to_h.bias"):
        stored = source.read(name) if name in source else np.zeros(source.shape.hidden, np.float32)
        bias = cast(stored, dtype)
        if source.shape.parallel and ranks > 1:
            bias = cast(widened(bias) / ranks, dtype)
        write_file(folder / f"{_stem(name)}.bin", bias, dtype)
        both.append(widened(bias))
    if source.shape.parallel:
        write_file(folder / f"{_stem(layer)}mlp.attention.bias.sum.bin", cast(both[0] + both[1], dtype), dtype)


def folder_bytes(source: Source, dtype: str) -> int:
    """About what the folder takes."""
    return ITEM_BYTES[dtype] * sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes(source.shape).values())
