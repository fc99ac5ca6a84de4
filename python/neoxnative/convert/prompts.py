"""Learned prompts of tasks, as FasterTransformer reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import _core
from .output import Job, write_file
from .shape import Shape, ini_integer, read_ini
from .values import ITEM_BYTES, NUMPY_TYPES, Array

_PREFIX, _TUNING = 2, 3  # prompt_learning_type


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
            values = _core.Checkpoint(self.path).read(self.tensor).reshape(self.length, shape.layers, 2, shape.heads, shape.head_dim)
            _write_prefix(folder, self.task, values.transpose(1, 2, 3, 0, 4), ranks, dtype)

        return Job(self.path.name, 4 * self.length * shape.layers * 2 * shape.hidden, write)


def _write_prefix(folder: Path, task: str, values: Array, ranks: int, dtype: str) -> None:
    for rank, part in enumerate(np.split(values, ranks, axis=2)):
        write_file(folder / _prefix_file(task, rank), part, dtype)


def _prefix_file(task: str, rank: int) -> str:
    return f"model.prefix_prompt.{task}.weight.{rank}.bin"


@dataclass(frozen=True)
class StoredPrompt:
    """A task's prompt of `length` virtual tokens in FasterTransformer's files: of a prefix one for each rank, of a table one."""

    task: str
    length: int
    paths: tuple[Path, ...]
    dtype: str
    kind: int

    def job(self, shape: Shape, ranks: int, dtype: str) -> Job:
        """Writes the same for other ranks, and in another type."""

        def write(folder: Path) -> None:
            parts = [np.fromfile(path, NUMPY_TYPES[self.dtype]) for path in self.paths]
            if self.kind == _TUNING:
                for path, part in zip(self.paths, parts):
                    write_file(folder / path.name, part, dtype)
            elif parts:
                cut = (shape.layers, 2, shape.heads // len(parts), self.length, shape.head_dim)
                _write_prefix(folder, self.task, np.concatenate([part.reshape(cut) for part in parts], axis=2), ranks, dtype)

        return Job(f"the prompt of {self.task}", sum(path.stat().st_size for path in self.paths), write)


@dataclass(frozen=True)
class LearnedPrompts:
    """The tasks of a model, by number, and config.ini's keys of them all."""

    tasks: Sequence[PrefixPrompt | StoredPrompt]
    kind: int = _PREFIX
    start_id: int | None = None

    def __post_init__(self) -> None:
        seen: dict[str, PrefixPrompt | StoredPrompt] = {}
        for task in self.tasks:
            other = seen.setdefault(task.task, task)
            if other is not task:
                both = " and ".join(str(t.path) for t in (other, task) if isinstance(t, PrefixPrompt))
                raise ValueError(f"two tasks have the name {task.task!r}, expected one each{': ' if both else ''}{both}")

    def keys(self) -> dict[str, str]:
        """Of the model's section."""
        if not self.tasks:
            return {}
        start = {} if self.start_id is None else {"prompt_learning_start_id": str(self.start_id)}
        return {"num_tasks": str(len(self.tasks)), "prompt_learning_type": str(self.kind), **start}

    def sections(self) -> dict[str, dict[str, str]]:
        return {f"task_{i}": {"task_name": task.task, "prompt_length": str(task.length)} for i, task in enumerate(self.tasks)}


def stored_prompts(folder: Path, shape: Shape, dtype: str) -> LearnedPrompts:
    """Those of FasterTransformer's folder, whose files have that type; none where it is no such folder.

    FileNotFoundError, ValueError: a file is missing, or of another size than config.ini says.
    """
    file = folder / "config.ini"
    if (folder / "config.json").is_file() or not file.is_file():
        return LearnedPrompts(())
    ini, section = read_ini(file)
    kind = ini_integer(file, ini, section, "prompt_learning_type", 0)
    if kind not in (_PREFIX, _TUNING):
        return LearnedPrompts(())
    tasks = []
    for k in range(ini_integer(file, ini, section, "num_tasks", 0)):
        own = next((name for name in (f"{section}_task_{k}", f"task_{k}") if ini.has_option(name, "task_name")), None)
        if own is None:
            raise ValueError(f"{file}: [task_{k}] task_name is missing, expected one for each of num_tasks")
        tasks.append(_stored_prompt(folder, ini[own]["task_name"], ini_integer(file, ini, own, "prompt_length", 0), kind, shape, dtype))
    start = ini_integer(file, ini, section, "prompt_learning_start_id") if ini.has_option(section, "prompt_learning_start_id") else None
    return LearnedPrompts(tasks, kind, start)


def _stored_prompt(folder: Path, task: str, length: int, kind: int, shape: Shape, dtype: str) -> StoredPrompt:
    if length == 0:
        return StoredPrompt(task, 0, (), dtype, kind)
    paths = [folder / (_prefix_file(task, 0) if kind == _PREFIX else f"model.prompt_table.{task}.weight.bin")]
    while kind == _PREFIX and (following := folder / _prefix_file(task, len(paths))).is_file():
        paths.append(following)
    if shape.heads % len(paths):
        raise ValueError(f"{paths[0]} is one of {len(paths)} files, expected a number that divides the {shape.heads} heads")
    values = length * shape.hidden * (2 * shape.layers if kind == _PREFIX else 1) // len(paths)
    for path in paths:
        if (found := path.stat().st_size) != values * ITEM_BYTES[dtype]:
            raise ValueError(f"{path} has {found} bytes, expected {values * ITEM_BYTES[dtype]}: {length} virtual tokens in {dtype}")
    return StoredPrompt(task, length, tuple(paths), dtype, kind)


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
