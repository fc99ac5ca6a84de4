"""A checkpoint to convert: its shape, and its tensors by HuggingFace's names, whatever format it is in."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from . import eleutherai
from .shape import Shape, config_of_shape, eos_ids, shape_of_config, shape_of_ini
from .values import ITEM_BYTES, Array

EMBEDDING, HEAD, HEADS = "gpt_neox.embed_in.weight", "embed_out.weight", ("lm_head.weight", "embed_out.weight")
_BUFFER = re.compile(r"\.att(entio)?n\.(bias|masked_bias|rotary_emb\.inv_freq)$")  # of old exports, computed anew
_MUST_BE_ZERO = re.compile(r"(^|\.)(lm_head\.bias|embed_out\.bias|wpe\.weight)$")  # GPT-NeoX has no such parameter


class Source:
    """path: a folder in any format that the engine reads.

    Its tensors' sizes are checked here, before anything is written: ValueError names the tensor, what was expected and found. A head's bias
    or position embeddings that are not zero are a ValueError, since no format written here can hold them. `left_out` names the other
    tensors that a GPT-NeoX model does not have; `is_tied`: the head is the embedding.
    names: HuggingFace's -> the checkpoint's own; None = it has HuggingFace's.
    """

    def __init__(self, path: Path, shape: Shape, config: Mapping[str, Any], names: Mapping[str, str] | None = None) -> None:
        self.path, self.shape, self.config = path, shape, config
        self._file = _core.Checkpoint(path, model_config=json.dumps(dict(config)) if _core.training_step(path) else "")
        stored = self._file.names()
        self._stored_name = {name: name for name in stored} if names is None else {new: old for new, old in names.items() if old in stored}
        if config.get("quantization_config") is not None:
            raise NotImplementedError(f"{path} is quantised, as its config.json says: expected a checkpoint of numbers")
        self._guard = threading.Lock()
        expected = shapes(shape)
        self.is_tied = self._find_head()
        self._check(expected)
        used = {self._stored_name[name] for name in expected}
        self._refuse_what_would_be_lost([name for name in stored if name not in used])
        known = (_BUFFER, _MUST_BE_ZERO)
        self.left_out = [name for name in stored if name not in {*used, *HEADS} and not any(kind.search(name) for kind in known)]

    def __contains__(self, name: str) -> bool:
        return name in self._stored_name

    def _find_head(self) -> bool:
        """Whether it is the embedding. The head that the config ties to it is not tied where the checkpoint holds another one."""
        stored = next((self._stored_name[name] for name in HEADS if name in self), None)
        embedding = self._stored_name.get(EMBEDDING)
        tied = self.shape.tied and embedding is not None and (stored is None or self._file.same(stored, embedding))
        head = embedding if tied else stored
        if head is not None:
            self._stored_name[HEAD] = head
        return tied

    def _check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in expected.items():
            if name not in self:
                raise ValueError(f"{self.path}: tensor {name} is missing, expected {list(shape)}")
            found = self._file.shape(self._stored_name[name])
            if found != shape:
                raise ValueError(f"{self.path}: {self._stored_name[name]} is {list(found)}, expected {list(shape)}")

    def _refuse_what_would_be_lost(self, others: list[str]) -> None:
        for name in others:
            if _MUST_BE_ZERO.search(name):
                largest = float(np.abs(self._file.read(name).astype(np.float32)).max(initial=0))  # bfloat16's bits are 0 where it is
                self._file.done_with(name)
                if largest != 0 or largest != largest:
                    raise ValueError(f"{self.path}: {name} is not zero, and GPT-NeoX has no such parameter: expected zeros, or no {name}")

    def companions(self, names: Iterable[str]) -> dict[str, Path]:
        """Those of these files that lie beside it, and a training's tokenizer as tokenizer.json."""
        found = {name: place / name for place in _places(self.path) for name in names if (place / name).is_file()}
        if "tokenizer.json" not in found and _core.training_step(self.path) and (file := eleutherai.tokenizer_file(self.path)):
            found["tokenizer.json"] = file
        return found

    def dtype(self, name: str) -> str:
        """ "float32", "float16" or "bfloat16"."""
        return self._file.dtype(self._stored_name[name])

    def bytes(self, name: str) -> int:
        return ITEM_BYTES[self.dtype(name)] * int(np.prod(self._file.shape(self._stored_name[name]), dtype=np.int64))

    def read(self, name: str) -> Array:
        """May be called by several threads. bfloat16 is uint16 with its bits."""
        return self._file.read(self._stored_name[name])

    def done_with(self, name: str) -> None:
        with self._guard:
            self._file.done_with(self._stored_name[name])


def shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """HuggingFace's names of all tensors that a model of this shape has, and their shapes."""
    h, inner = shape.hidden, shape.inner
    out: dict[str, tuple[int, ...]] = {EMBEDDING: (shape.vocab, h)}
    for i in range(shape.layers):
        layer = f"gpt_neox.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out |= {f"{layer}{norm}.weight": (h,), f"{layer}{norm}.bias": (h,)}
        for name, outputs, inputs in (
            ("attention.query_key_value", 3 * h, h),
            ("attention.dense", h, h),
            ("mlp.dense_h_to_4h", inner, h),
            ("mlp.dense_4h_to_h", h, inner),
        ):
            out[f"{layer}{name}.weight"] = (outputs, inputs)
            if shape.attention_bias or name.startswith("mlp"):
                out[f"{layer}{name}.bias"] = (outputs,)
    out |= {"gpt_neox.final_layer_norm.weight": (h,), "gpt_neox.final_layer_norm.bias": (h,)}
    return out | {HEAD: (shape.vocab, h)}


def open_source(path: str | os.PathLike[str]) -> Source:
    """A folder with config.json, a `<T>-gpu` of FasterTransformer's or the folder above it, or EleutherAI's with its yml."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: expected a checkpoint to convert")
    folder = _ft_folder(folder) or folder
    file = next((place / "config.json" for place in _places(folder) if (place / "config.json").is_file()), None)
    if file is not None:
        config = read_config(file)
        if config.get("model_type") != "gpt_neox":
            raise NotImplementedError(f"{file}: model_type is {config.get('model_type')!r}, expected gpt_neox")
        shape = shape_of_config(config, str(file))
        return Source(folder, replace(shape, end_ids=generation_eos(folder) or shape.end_ids), config)
    if (folder / "config.ini").is_file():
        shape, dtype = shape_of_ini(folder / "config.ini")
        if set(shape.end_ids) <= (others := set(generation_eos(folder))) and shape.end_ids:
            shape = replace(shape, end_ids=(*shape.end_ids, *sorted(others - set(shape.end_ids))))
        return Source(folder, shape, config_of_shape(shape, dtype))
    if not _core.training_step(folder):
        raise FileNotFoundError(f"{folder} has neither config.json nor config.ini, nor a training's layer files: expected a checkpoint")
    config = eleutherai.config(folder)
    return Source(folder, shape_of_config(config, f"{folder}: its yml"), config)


def generation_eos(folder: Path) -> tuple[int, ...]:
    """EOS ids of generation_config.json, which come before config.json's, and add to those of a config.ini that are among them."""
    file = next((place / "generation_config.json" for place in _places(folder) if (place / "generation_config.json").is_file()), None)
    return eos_ids(read_config(file)) if file else ()


def _places(folder: Path) -> list[Path]:
    """The folder, and that of a training's layer files."""
    step = _core.training_step(folder)
    return [folder, Path(step)] if step else [folder]


def _ft_folder(folder: Path) -> Path | None:
    """The `<T>-gpu` of the smallest T below a folder that is no model itself."""
    if (folder / "config.json").exists() or (folder / "config.ini").exists():
        return None
    found = [entry for entry in folder.iterdir() if re.fullmatch(r"[1-9]\d*-gpu", entry.name) and (entry / "config.ini").is_file()]
    return min(found, key=lambda entry: int(entry.name.partition("-")[0]), default=None)


def read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} is {str(config)[:80]!r}, expected a JSON object")
    return config
