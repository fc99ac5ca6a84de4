"""Prefix prompts of tasks, as FasterTransformer reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import _core
from .output import Job, write_file
from .shape import Shape


@dataclass(frozen=True)
class PrefixPrompt:
    """A trained prefix: keys and values of `length` positions, in a file of one tensor [length, layers, 2, heads, head_dim]."""

    task: str
    length: int
    path: Path
    tensor: str

    def job(self, shape: Shape, ranks: int, dtype: str) -> Job:
        """Writes model.prefix_prompt.<task>.weight.<rank>.bin, [layers, 2, heads / ranks, length, head_dim] for each rank."""

        def write(folder: Path) -> None:
            values = _core.Checkpoint(self.path).read(self.tensor)
            values = values.reshape(self.length, shape.layers, 2, ranks, shape.heads // ranks, shape.head_dim)
            for rank, part in enumerate(values.transpose(3, 1, 2, 4, 0, 5)):
                write_file(folder / f"model.prefix_prompt.{self.task}.weight.{rank}.bin", part, dtype)

        return Job(self.path.name, 4 * self.length * shape.layers * 2 * shape.hidden, write)


def open_prompt(path: str | os.PathLike[str], shape: Shape) -> PrefixPrompt:
    """ValueError: the file holds not one tensor, or one that is not whole positions of this model's."""
    file = Path(path)
    reader = _core.Checkpoint(file)
    names = reader.names()
    if len(names) != 1:
        raise ValueError(f"{file} holds {len(names)} tensors, expected one, a prefix prompt")
    count = int(np.prod(reader.shape(names[0]), dtype=np.int64))
    position = shape.layers * 2 * shape.hidden
    if count == 0 or count % position:
        sizes = f"{shape.layers} layers * 2 * {shape.heads} heads * {shape.head_dim}"
        raise ValueError(f"{file} holds {count} values, expected a multiple of {position} ({sizes})")
    return PrefixPrompt(task_name(file), count // position, file, names[0])


def task_name(file: Path) -> str:
    """What follows "prefix_prompt." in the file's name; FasterTransformer's rule, the third word from the end, where nothing does."""
    words = file.name.split(".")
    after = words.index("prefix_prompt") + 1 if "prefix_prompt" in words else 0
    if 0 < after < len(words):
        return words[after]
    return words[-3] if len(words) >= 3 else words[0]
