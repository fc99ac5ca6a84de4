"""The forms that a prompt may come in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .tokenizer import AnyTokenizer

Prompt: TypeAlias = str | Sequence[int] | NDArray[np.integer]
Prompts: TypeAlias = Prompt | Sequence[Prompt]


class TokenPrompt(NamedTuple):
    """A prompt as the engine takes it."""

    text: str | None  # None where it came as ids
    ids: NDArray[np.int32]  # [length]


def split_prompts(prompts: Prompts) -> list[Prompt]:
    """One prompt or many, as a list."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, np.ndarray):
        return [prompts] if prompts.ndim < 2 else list(prompts)
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise TypeError(f"prompts is a {type(prompts).__name__}, expected text, ids, or a list of these")
    if prompts and all(isinstance(item, int | np.integer) for item in prompts):
        return [cast(Prompt, prompts)]
    return cast(list[Prompt], list(prompts))


def read_prompt(prompt: Prompt, tokenizer: AnyTokenizer | None, model: str) -> TokenPrompt:
    """The prompt's ids. ValueError for text without a tokenizer, and for what is neither text nor integers."""
    if not isinstance(prompt, str):
        return TokenPrompt(None, token_array(prompt, "prompt", dimensions=1))
    if tokenizer is None:
        raise ValueError(f"the prompt is text, but {model} has no tokenizer.json: pass token ids, or Engine(tokenizer=...)")
    check_text(prompt, "the prompt")
    return TokenPrompt(prompt, np.array(tokenizer.encode(prompt), np.int32))


def check_text(text: str, name: str) -> None:
    """ValueError for a lone surrogate, as Python puts in the place of a byte that it could not decode: UTF-8 has no form for it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = text[error.start]
        raise ValueError(f"{name} holds {found!r} at character {error.start}, expected Unicode text without lone surrogates") from None


def token_array(ids: ArrayLike, name: str, *, dimensions: int) -> NDArray[np.int32]:
    """Integers as a contiguous int32 array. ValueError for another type, another number of dimensions, or an id beyond int32."""
    try:
        array = np.asarray(ids)
    except ValueError:  # rows of several lengths
        raise ValueError(f"{name} is not an array: expected integers in {dimensions} dimension(s)") from None
    if array.ndim != dimensions:
        raise ValueError(f"{name} has shape {list(array.shape)}, expected {dimensions} dimension(s)")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {array.dtype}, expected integers")
    out = np.ascontiguousarray(array.astype(np.int32))
    if not np.array_equal(out, array):
        raise ValueError(f"{name} holds ids outside of int32")
    return out


@contextmanager
def naming(index: int) -> Iterator[None]:
    """Tells in a traceback which of many prompts was refused."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in prompts[{index}]")
        raise
