"""HuggingFace's layout with integers for the matrices of layers and head, as compressed-tensors describes it in config.json."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from .output import Job
from .safetensors import Layout
from .source import HEAD, Source, shapes
from .values import Array

MODES = ("int8", "w8a8", "int4", "w4a8")
GROUP = 64


def check(mode: str, group: int | None) -> int:
    """The group of a mode, 0 where it has a scale for each output. ValueError says what is wrong with them."""
    if mode not in MODES:
        raise ValueError(f"quantization is {mode!r}, expected one of {', '.join(MODES)}")
    if mode in ("int8", "w8a8"):
        if group:
            raise ValueError(f"quantization_group_size is {group} with {mode}, which has a scale for each output: expected none")
        return 0
    if group not in (None, 32, 64, 128):
        raise ValueError(f"quantization_group_size is {group}, expected 32, 64 or 128")
    return group or GROUP


def matrices(source: Source) -> list[str]:
    """The names of what is quantised: four matrices of each layer, and the head."""
    return [name for name, shape in shapes(source.shape).items() if len(shape) == 2 and not name.endswith("embed_in.weight")]


def form(name: str, mode: str, group: int) -> tuple[str, int]:
    """A matrix's own mode and group: the head has 8 bits in all modes."""
    return ("int8", 0) if name == HEAD else (mode, group)


def errors(source: Source, mode: str, group: int | None) -> Iterator[tuple[str, float, float]]:
    """Of each matrix its name, the sum of the squared errors that a mode makes, and that of the squared weights."""
    columns = check(mode, group)
    for name in matrices(source):
        _check_groups(source, name, *form(name, mode, columns))
        _, _, error, norm = _core.quantize(*form(name, mode, columns), np.ascontiguousarray(source.read(name)))
        source.done_with(name)
        yield name, error, norm


def _check_groups(source: Source, name: str, mode: str, group: int) -> None:
    inputs = shapes(source.shape)[name][1]
    if group and inputs % group:
        raise ValueError(f"quantization {mode} has groups of {group} inputs, which do not divide the {inputs} of {name}")


class QuantizedLayout(Layout):
    """A matrix is int8 `weight` [outputs, inputs] with float32 `weight_scale` [outputs, 1]; or int32 `weight_packed` [outputs, inputs / 8],
    of 4-bit integers + 8, the first in the lowest bits, with float16 `weight_scale` [outputs, inputs / group] and int64 `weight_shape`."""

    def __init__(self, source: Source, dtype: str | None, mode: str, group: int | None) -> None:
        self._mode, self._group = mode, check(mode, group)
        self._matrices = matrices(source)
        for name in self._matrices:
            _check_groups(source, name, *form(name, mode, self._group))
        super().__init__(source, dtype)

    def _tensors(self, dtype: str | None) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        out: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, shape in shapes(self._source.shape).items():
            if name not in self._matrices:
                out[name] = dtype or self._source.dtype(name), shape
                continue
            group = form(name, self._mode, self._group)[1]
            if group:
                out[name + "_packed"] = "int32", (shape[0], shape[1] // 8)
                out[name + "_scale"] = "float16", (shape[0], shape[1] // group)
                out[name + "_shape"] = "int64", (2,)
            else:
                out[name] = "int8", shape
                out[name + "_scale"] = "float32", (shape[0], 1)
        return out

    def jobs(self) -> list[Job]:
        places = self._places()
        plain = [job for job in super().jobs() if job.name not in self._matrices]
        return plain + [Job(name, self._source.bytes(name), partial(self._quantize, name, places)) for name in self._matrices]

    def _quantize(self, name: str, places: Mapping[str, tuple[str, int]], folder: Path) -> None:
        mode, group = form(name, self._mode, self._group)
        weight = np.ascontiguousarray(self._source.read(name))
        integers, scales, _, _ = _core.quantize(mode, group, weight)
        if not np.isfinite(scales).all():
            raise ValueError(f"{name} has values that are not finite, or that {mode} cannot scale: expected finite numbers")
        made: dict[str, Array] = {name: integers, name + "_scale": scales}
        if group:
            made = {name + "_packed": packed(integers), name + "_scale": scales.astype(np.float16)}
            made[name + "_shape"] = np.array(weight.shape, np.int64)
        for part, array in made.items():
            file, at = places[part]
            with (folder / file).open("r+b") as stream:
                stream.seek(at)
                stream.write(array.data)
                stream.flush()
                os.fsync(stream.fileno())
        self._source.done_with(name)


def packed(integers: Array) -> Array:
    """[rows, cols] in [-8, 7] -> [rows, cols / 8] int32."""
    nibbles = (integers + 8).astype(np.uint8)
    return np.ascontiguousarray(nibbles[:, 0::2] | nibbles[:, 1::2] << 4).view("<i4")


def config_of(mode: str, group: int | None) -> dict[str, Any]:
    """config.json's quantization_config."""
    columns = check(mode, group)
    inputs = None
    if mode in ("w8a8", "w4a8"):
        inputs = _scheme(8, "token", dynamic=True)
    eight = {"targets": [r"re:.*(embed_out|lm_head)$"] if columns else ["Linear"], "weights": _scheme(8, "channel")}
    groups: Sequence[dict[str, Any]] = [eight | {"format": "int-quantized"}]
    if columns:
        targets = [r"re:.*attention\.query_key_value$", r"re:.*attention\.dense$", r"re:.*mlp\.dense_h_to_4h$", r"re:.*mlp\.dense_4h_to_h$"]
        groups = [{"targets": targets, "weights": _scheme(4, "group", columns), "format": "pack-quantized"}, *groups]
    return {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision" if columns else "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": g | {"input_activations": inputs, "output_activations": None} for i, g in enumerate(groups)},
        "ignore": [],
        "kv_cache_scheme": None,
    }


def _scheme(bits: int, strategy: str, group: int | None = None, *, dynamic: bool = False) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True, "strategy": strategy, "group_size": group, "dynamic": dynamic}
