"""The forms that a prompt may come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .outputs import EngineInfo
from .prompt_learning import embeds_array
from .tokenizer import AnyTokenizer


class PromptDict(TypedDict, total=False):
    """A prompt of several parts.

    prompt: text; or prompt_token_ids: ids, of which those past the vocabulary are virtual tokens of a tuning task; or neither
    prompt_embeds: float [rows, hidden], in front of the tokens: a soft prompt
    task: name of one of Engine(prompt_learning=...)'s tasks
    """

    prompt: str
    prompt_token_ids: Sequence[int] | NDArray[np.integer]
    prompt_embeds: ArrayLike
    task: str


Prompt: TypeAlias = str | Sequence[int] | NDArray[np.integer] | PromptDict
Prompts: TypeAlias = Prompt | Sequence[Prompt]


class TokenPrompt(NamedTuple):
    """A prompt as the engine takes it."""

    text: str | None  # None where it came as ids
    ids: NDArray[np.int32]  # [length]
    task: str = ""
    embeds: NDArray[np.float32] | None = None  # [rows, hidden]


def split_prompts(prompts: Prompts) -> list[Prompt]:
    """One prompt or many, as a list."""
    if isinstance(prompts, str | Mapping):
        return [cast(Prompt, prompts)]
    if isinstance(prompts, np.ndarray):
        return [prompts] if prompts.ndim < 2 else list(prompts)
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise TypeError(f"prompts is a {type(prompts).__name__}, expected text, ids, or a list of these")
    if prompts and all(isinstance(item, int | np.integer) for item in prompts):
        return [cast(Prompt, prompts)]
    return cast(list[Prompt], list(prompts))


def read_prompt(prompt: Prompt, tokenizer: AnyTokenizer | None, info: EngineInfo) -> TokenPrompt:
    """The prompt's ids and other parts. ValueError for text without a tokenizer, and for what is neither text nor integers."""
    if isinstance(prompt, Mapping):
        return _read_parts(prompt, tokenizer, info)
    if not isinstance(prompt, str):
        return TokenPrompt(None, token_array(prompt, "prompt", dimensions=1))
    if tokenizer is None:
        raise ValueError(f"the prompt is text, but {info.model} has no tokenizer.json: pass token ids, or Engine(tokenizer=...)")
    check_text(prompt, "the prompt")
    return TokenPrompt(prompt, np.array(tokenizer.encode(prompt), np.int32))


def _read_parts(prompt: PromptDict, tokenizer: AnyTokenizer | None, info: EngineInfo) -> TokenPrompt:
    if unknown := sorted(map(str, prompt.keys() - PromptDict.__annotations__.keys())):
        raise ValueError(f"the prompt has {', '.join(unknown)}, expected {', '.join(PromptDict.__annotations__)}")
    if "prompt" in prompt and "prompt_token_ids" in prompt:
        raise ValueError("the prompt has both prompt and prompt_token_ids, expected one of them")
    text, task, embeds = prompt.get("prompt"), prompt.get("task"), prompt.get("prompt_embeds")
    if not isinstance(text, str | None):
        raise TypeError(f"the prompt's prompt is a {type(text).__name__}, expected text")
    if not isinstance(task, str | None):
        raise TypeError(f"the prompt's task is a {type(task).__name__}, expected its name")
    tokens = read_prompt(prompt.get("prompt_token_ids", np.empty(0, np.int32)) if text is None else text, tokenizer, info)
    rows = None if embeds is None else embeds_array("prompt_embeds", embeds, info.hidden)
    return tokens._replace(task=task or "", embeds=rows)


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
