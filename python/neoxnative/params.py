"""How a request is sampled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from . import _core
from .prompts import check_text


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How one request is sampled. Checked on construction: ValueError or TypeError name the field, the value and what was expected.

    They apply in this order: logit_bias, repetition_penalty, presence_penalty and frequency_penalty, no_repeat_ngram_size, bad_words,
    min_tokens, allowed_token_ids, temperature, top_k, top_p, min_p, typical_p. With z a token's logit:
    z += logit_bias;
    z = z * repetition_penalty if z < 0 else z / repetition_penalty, for tokens of the prompt and the output;
    z -= presence_penalty + frequency_penalty * count, for tokens that are `count` > 0 times in the output.
    A request of which every token is banned ends with a ValueError as its error. In brackets: the name in HuggingFace's `generate`, then
    FasterTransformer's, where it differs.

    max_tokens: new tokens at most, at least 1, or 0 for nothing but prompt_logprobs (HF max_new_tokens, FT request_output_len)
    min_tokens: before this many, EOS and stop ids are not drawn and other stops do not count (HF min_new_tokens, FT min_length)
    temperature: 0.001 to 1000, or 0 for greedy, with ties to the lowest id (HF do_sample=False)
    top_k: draw from the k most probable tokens, 0 = from all (FT runtime_top_k)
    top_p: draw from the smallest set of tokens that holds this probability, in (0, 1] (FT runtime_top_p)
    min_p: leave out tokens less probable than this share of the most probable one, in [0, 1]
    typical_p: draw from the tokens whose surprise is nearest to the entropy and that hold this probability, in (0, 1]
    top_p_decay: after each token top_p becomes max(top_p * top_p_decay, top_p_min), in (0, 1]
    top_p_min: what top_p does not fall below, in (0, 1]
    top_p_reset_id: after this token top_p is as it was at first, -1 = never (FT top_p_reset_ids)
    repetition_penalty: over 0 to 100; 1 = none, more makes tokens of prompt and output less probable
    presence_penalty: -2 to 2, for tokens in the output
    frequency_penalty: -2 to 2, for tokens in the output, times how often they are there
    logit_bias: token ids, and what is added to their logits, -100 to 100 (HF sequence_bias)
    no_repeat_ngram_size: no run of so many tokens occurs twice, prompt included; 0 = they may
    bad_words: texts that are never completed, or lists of ids; they may begin in the prompt (HF bad_words_ids, FT bad_words_list)
    allowed_token_ids: only these tokens are drawn, None = all
    beam_width: 1, or 2 to 64 for beam search, in which nothing is drawn: temperature, filters and seed do nothing (HF num_beams)
    length_penalty: a hypothesis's score is the sum of its log-probs / its tokens ** length_penalty, EOS counted (FT len_penalty)
    early_stopping: False: end when no better hypothesis seems likely; True: once there are beam_width; "never": when none can come
    beam_search_diversity_rate: times (rank in its own beam % beam_width), added to a continuation's sum where they are compared
    seed: of this request's draws, in [0, 2**64); None = the engine's, or fresh entropy (FT random_seed)
    first_index: the draws are those of the samples from this one on, of a request with more samples
    n: independent samples of the prompt, which is computed once, 1 to 256; the n best of beam_width (HF num_return_sequences)
    stop: strings that end the text, across token borders, or lists of ids; both may begin in the prompt (HF stop_strings)
    include_stop_str_in_output: keep the stop string in the text; a list of ids always stays
    ignore_eos: go on after the model's end-of-text token
    stop_token_ids: token ids that end the request, besides EOS, 16 at most (HF eos_token_id, FT end_id)
    logprobs: report this many most probable ids with each new token, 0 = only the chosen one, None = none (FT is_return_log_probs)
    logprobs_mode: "raw": the new tokens' log-probs are the model's own; "processed": those after penalties, bans and temperature, among
        the tokens that may be drawn, before top_k and the filters after it; then logprobs is None or 0 (vLLM logprobs_mode)
    prompt_logprobs: the same for the prompt's tokens, always raw
    prompt_logprobs_start: from this token of the prompt on; what stands before may then come from the prefix cache
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_p_decay: float = 1.0
    top_p_min: float = 1e-6
    top_p_reset_id: int = -1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    no_repeat_ngram_size: int = 0
    bad_words: str | Sequence[str | Sequence[int]] = ()
    allowed_token_ids: Sequence[int] | None = None
    beam_width: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    beam_search_diversity_rate: float = 0.0
    seed: int | None = None
    first_index: int = 0
    n: int = 1
    stop: str | Sequence[str | Sequence[int]] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    logprobs: int | None = None
    logprobs_mode: Literal["raw", "processed"] = "raw"
    prompt_logprobs: int | None = None
    prompt_logprobs_start: int = 0

    def __post_init__(self) -> None:
        for name in "stop", "bad_words":
            object.__setattr__(self, name, _phrases(name, getattr(self, name)))
        object.__setattr__(self, "stop_token_ids", _ids("stop_token_ids", self.stop_token_ids))
        if self.allowed_token_ids is not None:
            object.__setattr__(self, "allowed_token_ids", _ids("allowed_token_ids", self.allowed_token_ids))
            if not self.allowed_token_ids:
                raise ValueError("allowed_token_ids is empty, expected at least one id, or None for all")
        if self.early_stopping not in (False, True, "never"):
            raise ValueError(f'early_stopping is {self.early_stopping!r}, expected False, True or "never"')
        if self.logprobs_mode not in ("raw", "processed"):
            raise ValueError(f'logprobs_mode is {self.logprobs_mode!r}, expected "raw" or "processed"')
        if self.logit_bias is not None and not isinstance(self.logit_bias, Mapping):
            raise TypeError(f"logit_bias is {self.logit_bias!r}, expected a mapping of token ids to numbers")
        _core.validate(self)


def _ids(name: str, value: Iterable[int]) -> tuple[int, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected a sequence of integers")
    return tuple(value)


def _phrases(name: str, value: str | Iterable[str | Iterable[int]]) -> tuple[str | tuple[int, ...], ...]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} is {value!r}, expected a sequence of strings and lists of ids")
    made: list[str | tuple[int, ...]] = []
    for phrase in (value,) if isinstance(value, str) else value:
        if isinstance(phrase, str):
            check_text(phrase, name)
            made.append(phrase)
        elif isinstance(phrase, Iterable) and not isinstance(phrase, bytes):
            made.append(tuple(phrase))
        else:
            raise TypeError(f"{name} holds {phrase!r}, expected strings and lists of ids")
    return tuple(made)


def dtype_name(name: str, dtype: str | DTypeLike) -> str:
    if isinstance(dtype, str):
        return dtype
    try:
        return np.dtype(dtype).name
    except TypeError:
        raise TypeError(f"{name} is {dtype!r}, expected a string or a type of numpy's") from None
