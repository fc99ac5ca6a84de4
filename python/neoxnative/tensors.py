"""FasterTransformer's tensors: batches of ids with one value, or one for each row, of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .outputs import EngineInfo, RequestOutput
from .params import SamplingParams
from .prompt_learning import read_row_prompts
from .prompts import Prompt, token_array

# By FasterTransformer's name: ours, and the type.
_FIELDS: Mapping[str, tuple[str, type]] = {
    "request_output_len": ("max_tokens", int),
    "temperature": ("temperature", float),
    "repetition_penalty": ("repetition_penalty", float),
    "presence_penalty": ("presence_penalty", float),
    "min_length": ("min_tokens", int),
    "len_penalty": ("length_penalty", float),
    "beam_search_diversity_rate": ("beam_search_diversity_rate", float),
    "top_p_decay": ("top_p_decay", float),
    "top_p_min": ("top_p_min", float),
    "top_p_reset_ids": ("top_p_reset_id", int),
}


@dataclass(frozen=True, slots=True)
class TensorOutput:
    """What generate_ids returns, with B rows, W beams, L the longest prompt and continuation asked for together.

    output_ids: int32 [B, W, L]: the prompt, the new ids, and end_id to the end
    sequence_length: int32 [B, W]: ids of prompt and continuation; with padded_lengths the prompt's padding counts
    cum_log_probs: float32 [B, W]: the sum of output_log_probs
    output_log_probs: float32 [B, W, new ids asked for at most]: of the new ids; 0 after them
    """

    output_ids: NDArray[np.int32]
    sequence_length: NDArray[np.int32]
    cum_log_probs: NDArray[np.float32]
    output_log_probs: NDArray[np.float32]


def column(name: str, value: ArrayLike, rows: int, kind: type) -> list[Any]:
    """One value for each row, of a scalar, [1] or [rows]."""
    array = np.asarray(value)
    if array.dtype.kind not in ("iu" if kind is int else "iuf"):
        raise TypeError(f"{name} holds {array.dtype}, expected {'integers' if kind is int else 'numbers'}")
    if array.ndim > 1 or array.size not in (1, rows):
        raise ValueError(f"{name} has shape {list(array.shape)}, expected a scalar, [1] or [{rows}]")
    return [kind(x) for x in np.broadcast_to(array.reshape(-1), rows)]


def _phrases(name: str, value: ArrayLike | None, rows: int) -> list[list[list[int]]]:
    """Each row's lists of ids, of [2, n] or [rows, 2, n]: ids end to end, and where each list ends, with -1 to fill up."""
    if value is None:
        return [[] for _ in range(rows)]
    array = np.asarray(value)
    if array.ndim == 2:
        array = np.broadcast_to(array, (rows, *array.shape))
    if array.ndim != 3 or array.shape[:2] != (rows, 2) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} is {array.dtype} {list(np.asarray(value).shape)}, expected integers [2, n] or [{rows}, 2, n]")
    made = []
    for ids, ends in array.tolist():
        ends = [end for end in ends if end >= 0]
        if sorted(set(ends)) != ends or any(not 0 < end <= len(ids) for end in ends):
            raise ValueError(f"{name} has the offsets {ends}, expected rising ones from 1 to {len(ids)}")
        made.append([ids[begin:end] for begin, end in zip([0, *ends], ends)])
    return made


@dataclass(frozen=True, slots=True)
class TensorCall:
    """generate_ids's arguments as generate takes them.

    given: of each prompt the ids that output_ids repeats: the caller's own, not start_id, and no virtual tokens
    width: of input_ids
    """

    prompts: list[Prompt]
    params: list[SamplingParams]
    given: list[list[int]]
    width: int


def read_call(
    info: EngineInfo,
    *,
    input_ids: ArrayLike,
    input_lengths: ArrayLike | None,
    start_id: int | None,
    end_id: ArrayLike | None,
    prompt_learning_task_name_ids: ArrayLike | None,
    request_prompt_embedding: ArrayLike | None,
    request_prompt_lengths: ArrayLike | None,
    request_prompt_type: ArrayLike | None,
    **fields: Any,
) -> TensorCall:
    """fields: the other arguments of generate_ids."""
    rows = list(_read_ids(input_ids, input_lengths, start_id))
    parts = read_row_prompts(
        len(rows), info, prompt_learning_task_name_ids, request_prompt_embedding, request_prompt_lengths, request_prompt_type
    )
    tuning = {task.name for task in info.tasks if task.type == "tuning" and task.length > 0}
    given = [
        [token for token in ids[:own] if part.get("task") not in tuning or token < info.prompt_learning_start_id]
        for (ids, own), part in zip(rows, parts)
    ]
    ends = column("end_id", (info.eos_token_ids or [0])[0] if end_id is None else end_id, len(rows), int)
    prompts = [cast(Prompt, {"prompt_token_ids": ids, **part}) for (ids, _), part in zip(rows, parts)]
    return TensorCall(prompts, _read_params(len(rows), end_id=ends, **fields), given, np.shape(input_ids)[1])


def _read_ids(input_ids: ArrayLike, input_lengths: ArrayLike | None, start_id: int | None) -> Iterator[tuple[list[int], int]]:
    """Each row's prompt, and how many of its ids are the caller's: none where it is start_id."""
    ids = token_array(input_ids, "input_ids", dimensions=2)
    rows, width = ids.shape
    lengths = [width] * rows if input_lengths is None else column("input_lengths", input_lengths, rows, int)
    for row, length in zip(ids.tolist(), lengths):
        if not 0 <= length <= width:
            raise ValueError(f"input_lengths holds {length}, expected 0 to {width}, the width of input_ids")
        if length == 0 and start_id is None:
            raise ValueError("a row of input_ids is empty, expected at least one id, or start_id")
        yield (row[:length], length) if length else ([start_id], 0)  # type: ignore[list-item]


def _read_params(
    rows: int,
    *,
    beam_width: int,
    end_id: Sequence[int],
    runtime_top_k: ArrayLike,
    runtime_top_p: ArrayLike,
    random_seed: ArrayLike,
    bad_words_list: ArrayLike | None,
    stop_words_list: ArrayLike | None,
    early_stopping: Any,
    log_probs: str,
    **fields: ArrayLike,
) -> list[SamplingParams]:
    """One SamplingParams for each row."""
    if log_probs not in ("before", "after"):
        raise ValueError(f'log_probs is {log_probs!r}, expected "before" or "after"')
    columns = {ours: column(name, fields[name], rows, kind) for name, (ours, kind) in _FIELDS.items()}
    top_k, top_p = column("runtime_top_k", runtime_top_k, rows, int), column("runtime_top_p", runtime_top_p, rows, float)
    seeds = column("random_seed", random_seed, rows, int)
    shared_seed = np.asarray(random_seed).size == 1
    bad, stop = _phrases("bad_words_list", bad_words_list, rows), _phrases("stop_words_list", stop_words_list, rows)
    made = []
    for i in range(rows):
        row = {name: column[i] for name, column in columns.items()}
        row["min_tokens"] = min(row["min_tokens"], max(row["max_tokens"], 0))  # more than there are bans EOS throughout
        if row["top_p_reset_id"] == 2**32 - 1:  # -1 in FasterTransformer's type, uint32
            row["top_p_reset_id"] = -1
        if top_k[i] == 0 and top_p[i] == 0:
            if log_probs == "after":
                top_k[i] = 1  # greedy, of a distribution that temperature has shaped
            else:
                row["temperature"] = 0.0
        made.append(
            SamplingParams(
                **row,
                top_k=top_k[i],
                top_p=top_p[i] or 1.0,
                beam_width=beam_width,
                n=beam_width,
                early_stopping=early_stopping,
                logprobs_mode="raw" if log_probs == "before" else "processed",
                seed=seeds[i],
                first_index=i if shared_seed else 0,
                bad_words=bad[i],
                stop=stop[i],
                ignore_eos=True,
                stop_token_ids=[end_id[i]],
            )
        )
    return made


def write_outputs(outputs: Sequence[RequestOutput], call: TensorCall, *, padded_lengths: bool) -> TensorOutput:
    params, width = call.params, call.width
    rows, beams = len(outputs), params[0].n if params else 1
    most = max((p.max_tokens for p in params), default=0)
    out = TensorOutput(
        np.zeros((rows, beams, width + most), np.int32),
        np.zeros((rows, beams), np.int32),
        np.zeros((rows, beams), np.float32),
        np.zeros((rows, beams, most), np.float32),
    )
    for i, (output, prompt) in enumerate(zip(outputs, call.given)):
        out.output_ids[i] = params[i].stop_token_ids[0]
        for j, made in enumerate(output.outputs):
            if made.error is not None:
                raise made.error
            new = len(made.token_ids)
            length = len(prompt)
            out.output_ids[i, j, :length] = prompt
            out.output_ids[i, j, length : length + new] = made.token_ids
            out.sequence_length[i, j] = (width if padded_lengths else length) + new
            out.output_log_probs[i, j, :new] = made.token_logprobs
            out.cum_log_probs[i, j] = made.cumulative_logprob
    return out
