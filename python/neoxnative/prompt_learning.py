"""Prompts that were learned: what an engine is given of them when it is made, and what a request brings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .outputs import EngineInfo

PromptLearning: TypeAlias = Mapping[str, ArrayLike | None] | str | os.PathLike[str]


def prompt_options(given: PromptLearning | None) -> dict[str, Any]:
    """How the core is told of `Engine(prompt_learning=...)`."""
    if given is None:
        return {"tasks": [], "task_folder": None}
    if isinstance(given, Mapping):
        return {"tasks": list(_tasks(given)), "task_folder": None}
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"prompt_learning is a {type(given).__name__}, expected a mapping of task names to arrays, or a folder")
    folder = Path(given)
    if not (folder / "config.ini").is_file():
        raise FileNotFoundError(f"{folder} has no config.ini, expected a folder with FasterTransformer's files of learned prompts")
    return {"tasks": [], "task_folder": str(folder)}


def _tasks(given: Mapping[str, ArrayLike | None]) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    for name, value in given.items():
        if not isinstance(name, str):
            raise TypeError(f"prompt_learning has the task {name!r}, expected a name")
        array = numbers(f"prompt_learning[{name!r}]", np.empty((0, 0), np.float32) if value is None else value)
        if array.ndim not in (2, 5):
            raise ValueError(
                f"prompt_learning[{name!r}] has shape {list(array.shape)}, expected [layers, 2, heads, length, head_dim] (a prefix: keys "
                "and values) or [length, hidden] (p/prompt-tuning: embeddings)"
            )
        yield name, "prefix" if array.ndim == 5 else "tuning", array.reshape(-1)


def check_shapes(given: PromptLearning | None, info: EngineInfo) -> None:
    """ValueError where an array has as many numbers as it should, but another shape."""
    for name, value in given.items() if isinstance(given, Mapping) else ():
        shape = np.shape(value) if value is not None else ()
        if len(shape) == 5 and (*shape[:3], shape[4]) != (info.layers, 2, info.heads, info.head_dim):
            wanted = f"[{info.layers}, 2, {info.heads}, length, {info.head_dim}]"
        elif len(shape) == 2 and shape[1] != info.hidden:
            wanted = f"[length, {info.hidden}]"
        else:
            continue
        raise ValueError(f"prompt_learning[{name!r}] has shape {list(shape)}, expected {wanted}")


def numbers(name: str, value: ArrayLike) -> NDArray[np.float32]:
    """Floating-point numbers as a contiguous float32 array."""
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise ValueError(f"{name} holds {array.dtype}, expected floating-point numbers")
    return np.ascontiguousarray(array, np.float32)


def embeds_array(name: str, value: ArrayLike, hidden: int) -> NDArray[np.float32]:
    """[rows, hidden] float32."""
    array = numbers(name, value)
    if array.ndim != 2 or array.shape[1] != hidden:
        raise ValueError(f"{name} has shape {list(array.shape)}, expected [rows, {hidden}], {hidden} being the hidden size")
    return array


def read_row_prompts(
    rows: int,
    info: EngineInfo,
    task_ids: ArrayLike | None,
    embedding: ArrayLike | None,
    lengths: ArrayLike | None,
    types: ArrayLike | None,
) -> list[dict[str, Any]]:
    """What FasterTransformer's four tensors add to each row's prompt: its task, its embeddings."""
    made: list[dict[str, Any]] = [{} for _ in range(rows)]
    given = [tensor is not None for tensor in (embedding, lengths, types)]
    if any(given) and not all(given):
        raise ValueError("request_prompt_embedding, request_prompt_lengths and request_prompt_type come together, or not at all")
    if task_ids is not None and any(given):
        raise ValueError("prompt_learning_task_name_ids and request_prompt_embedding are both given, expected one of them")
    if task_ids is not None:
        for row, task in zip(made, _integers("prompt_learning_task_name_ids", task_ids, rows)):
            if not 0 <= task < len(info.tasks):
                raise ValueError(
                    f"prompt_learning_task_name_ids holds {task}, expected a task of this engine, of which there are {len(info.tasks)}"
                )
            row["task"] = info.tasks[task].name
    if embedding is not None and lengths is not None and types is not None:
        array = numbers("request_prompt_embedding", embedding)
        if array.ndim != 3 or array.shape[0] != rows or array.shape[2] != info.hidden:
            raise ValueError(f"request_prompt_embedding has shape {list(array.shape)}, expected [{rows}, longest, {info.hidden}]")
        kinds = _integers("request_prompt_type", types, rows)
        if any(kind != 1 for kind in kinds):
            raise ValueError(f"request_prompt_type holds {next(k for k in kinds if k != 1)}, expected 1 (soft prompts) in every row")
        for row, own, length in zip(made, array, _integers("request_prompt_lengths", lengths, rows)):
            if not 0 <= length <= array.shape[1]:
                raise ValueError(
                    f"request_prompt_lengths holds {length}, expected 0 to {array.shape[1]}, the width of request_prompt_embedding"
                )
            row["prompt_embeds"] = own[:length]
    return made


def _integers(name: str, value: ArrayLike, rows: int) -> list[int]:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.shape != (rows,):
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected integers [{rows}]")
    return array.tolist()  # type: ignore[no-any-return]
