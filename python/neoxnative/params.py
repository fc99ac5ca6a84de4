"""How a request is sampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import _core
from .prompts import check_text


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How one request is sampled. Checked on construction: ValueError or TypeError name the field, the value and what was expected.

    Filters apply in this order: temperature, top_k, top_p, min_p. In brackets: the name in HuggingFace's `generate`, then
    FasterTransformer's, where it differs.

    max_tokens: new tokens at most, at least 1, or 0 for nothing but prompt_logprobs (HF max_new_tokens, FT request_output_len)
    min_tokens: before this many, EOS and stop ids are not drawn and stop strings do not count (HF min_new_tokens, FT min_length)
    temperature: 0.001 to 1000, or 0 for greedy, with ties to the lowest id (HF do_sample=False)
    top_k: draw from the k most probable tokens, 0 = from all (FT runtime_top_k)
    top_p: draw from the smallest set of tokens that holds this probability, in (0, 1] (FT runtime_top_p)
    min_p: leave out tokens less probable than this share of the most probable one, in [0, 1]
    seed: of this request's draws, in [0, 2**64); None = the engine's, or fresh entropy (FT random_seed)
    n: independent samples of the prompt, which is computed once, 1 to 256 (HF num_return_sequences)
    stop: a string or several that end the text, matched on text across token borders (HF stop_strings, FT stop_words_list)
    include_stop_str_in_output: keep the stop string in the text
    ignore_eos: go on after the model's end-of-text token
    stop_token_ids: token ids that end the request, besides EOS, 16 at most (HF eos_token_id, FT end_id)
    logprobs: report this many most probable ids with each new token, 0 = only the chosen one, None = none (FT is_return_log_probs)
    prompt_logprobs: the same for the prompt's tokens
    prompt_logprobs_start: from this token of the prompt on; what stands before may then come from the prefix cache
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    n: int = 1
    stop: str | Sequence[str] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_start: int = 0

    def __post_init__(self) -> None:
        for name, of in ("stop", "strings"), ("stop_token_ids", "integers"):
            value = getattr(self, name)
            if not isinstance(value, Iterable):
                raise TypeError(f"{name} is {value!r}, expected a sequence of {of}")
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for text in self.stop:
            if not isinstance(text, str):
                raise TypeError(f"stop holds {text!r}, expected strings")
            check_text(text, "stop")
        _core.validate(self)
