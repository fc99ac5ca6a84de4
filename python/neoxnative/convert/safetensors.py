"""HuggingFace's layout: safetensors files, several where they would be large, with config.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from .output import Job, pieces, write_text
from .source import HEAD, Source, shapes
from .values import ITEM_BYTES, SAFETENSORS_NAMES

SHARD_BYTES = 5 * 10**9  # of a file at most, but for a tensor that is larger


class Layout:
    """Which tensor lies where. dtype: of all tensors; None = each keeps its own."""

    def __init__(self, source: Source, dtype: str | None) -> None:
        self._source = source
        self._made = self._tensors(dtype)
        self._sizes = {name: ITEM_BYTES[kind] * int(np.prod(shape)) for name, (kind, shape) in self._made.items()}
        shards: list[dict[str, int]] = [{}]  # name -> offset
        for name, size in self._sizes.items():
            used = sum(self._sizes[other] for other in shards[-1])
            if shards[-1] and used + size > SHARD_BYTES:
                shards.append({})
                used = 0
            shards[-1][name] = used
        count = len(shards)
        names = ["model.safetensors"] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        self._shards = dict(zip(names, shards))

    def _tensors(self, dtype: str | None) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Types and shapes of what is written."""
        expected = shapes(self._source.shape)
        if self._source.is_tied:
            del expected[HEAD]
        return {name: (dtype or self._source.dtype(name), shape) for name, shape in expected.items()}

    @property
    def size(self) -> int:
        return sum(self._sizes.values())

    def begin(self, folder: Path) -> None:
        """Writes the headers, and the index if there are several files."""
        for file, offsets in self._shards.items():
            (folder / file).write_bytes(self._header(offsets))
        if len(self._shards) > 1:
            weight_map = {name: file for file, offsets in self._shards.items() for name in offsets}
            index = {"metadata": {"total_size": self.size}, "weight_map": weight_map}
            write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")

    def _header(self, offsets: Mapping[str, int]) -> bytes:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        for name, offset in offsets.items():
            span = [offset, offset + self._sizes[name]]
            kind, shape = self._made[name]
            header[name] = {"dtype": SAFETENSORS_NAMES[kind], "shape": list(shape), "data_offsets": span}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _places(self) -> dict[str, tuple[str, int]]:
        """Each tensor's file, and where in it it begins."""
        out: dict[str, tuple[str, int]] = {}
        for file, offsets in self._shards.items():
            start = len(self._header(offsets))
            out |= {name: (file, start + at) for name, at in offsets.items()}
        return out

    def jobs(self) -> list[Job]:
        copied = {name: place for name, place in self._places().items() if name in self._source}
        return [Job(name, self._source.bytes(name), partial(self._write, name, *place)) for name, place in copied.items()]

    def _write(self, name: str, file: str, at: int, folder: Path) -> None:
        with (folder / file).open("r+b") as stream:
            stream.seek(at)
            for piece in pieces(self._source.read(name), self._made[name][0]):
                stream.write(piece.data)
            stream.flush()
            os.fsync(stream.fileno())
        self._source.done_with(name)
