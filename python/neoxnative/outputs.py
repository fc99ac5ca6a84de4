"""What the engine gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ._core import NumericalError

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(slots=True)
class CompletionOutput:
    """One continuation of a prompt.

    text: the continuation without special tokens; empty where the engine has no tokenizer
    token_ids: the new ids; a final EOS or stop id is among them
    logprobs: natural log-probability of each of token_ids, before temperature and filters
    finish_reason: "stop" (EOS or a stop id), "length" (max_tokens or the model's positions), "cancelled", "error"; None while it runs
    stop_reason: the token id that ended it, EOS included; None where none did
    error: what failed, with finish_reason "error"
    """

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    error: NumericalError | None = None

    @property
    def cumulative_logprob(self) -> float:
        """The sum of `logprobs`."""
        return sum(self.logprobs)


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its continuations. `prompt` is None where the prompt came as ids."""

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one request: new ids, their log-probs, and whole characters of text. `output` is set on the last one."""

    request_id: int
    index: int
    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: FinishReason | None
    output: RequestOutput | None

    @property
    def finished(self) -> bool:
        """Whether the request has ended."""
        return self.output is not None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine made of its model and options. Sizes are in bytes, lengths in tokens."""

    model: str
    device: str
    device_detail: str
    dtype: str
    kv_cache_dtype: str
    hidden_act: str
    layers: int
    hidden: int
    heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rotary_dim: int
    max_positions: int
    rotary_base: float
    layer_norm_eps: float
    parallel_residual: bool
    tied_embedding: bool
    attention_bias: bool
    parameters: int
    weight_bytes: int
    kv_cache_bytes: int
    block_size: int
    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_threads: int
    eos_token_ids: list[int]
    warnings: list[str]
