"""What the engine gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ._core import NumericalError

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's natural log-probability in the model's own distribution, before temperature and filters.

    rank: how many tokens are more probable, None where it was not asked for
    decoded_token: its text, None where the engine has no tokenizer
    """

    logprob: float
    rank: int | None
    decoded_token: str | None


@dataclass(slots=True)
class CompletionOutput:
    """One continuation of a prompt.

    text: the continuation without special tokens; empty where the engine has no tokenizer
    token_ids: the new ids; a final EOS or stop id is among them, and so are those of a stop string
    token_logprobs: natural log-probability of each of token_ids, before temperature and filters
    logprobs: for each of token_ids its own Logprob and those of the most probable ids, by id; None unless SamplingParams.logprobs asks
    finish_reason: "stop" (EOS, a stop id or string), "length" (max_tokens or the model's positions), "cancelled", "error"; None: it runs
    stop_reason: the token id, EOS included, or the string that ended it; None where none did
    score: of a beam search: sum of its log-probs after penalties / tokens ** length_penalty, by which outputs are ordered; else None
    error: what failed, with finish_reason "error": NumericalError, or ValueError where every token was banned
    """

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    score: float | None = None
    error: NumericalError | ValueError | None = None

    @property
    def cumulative_logprob(self) -> float:
        """The sum of `token_logprobs`."""
        return sum(self.token_logprobs)


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its continuations, one for each of SamplingParams.n.

    prompt: None where the prompt came as ids
    prompt_logprobs: as CompletionOutput.logprobs, for prompt_token_ids; None for the first token and before prompt_logprobs_start
    """

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one sample of a request: new ids, their log-probs, and whole characters of text.

    index: of the sample
    finish_reason: set on the sample's last Delta
    output: set on the request's last Delta
    """

    request_id: int
    index: int
    token_ids: list[int]
    token_logprobs: list[float]
    logprobs: list[dict[int, Logprob]] | None
    text: str
    finish_reason: FinishReason | None
    output: RequestOutput | None

    @property
    def finished(self) -> bool:
        """Whether the request has ended, with all its samples."""
        return self.output is not None


@dataclass(slots=True)
class ScoreOutput:
    """How probable a text is to the model.

    logprobs: natural log-probability of each of token_ids given those before it; None for the first token and before `start`
    """

    prompt: str | None
    token_ids: list[int]
    logprobs: list[float | None]

    @property
    def cumulative_logprob(self) -> float:
        """The sum of the log-probs that are there."""
        return sum(logprob for logprob in self.logprobs if logprob is not None)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-prob; NaN where no token was scored."""
        count = sum(logprob is not None for logprob in self.logprobs)
        try:
            return math.exp(-self.cumulative_logprob / count) if count else math.nan
        except OverflowError:
            return math.inf


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the engine was made, and how it stands now.

    requests, finished: submitted, and ended in any way
    running, waiting: sequences (a request with n samples becomes n when its prompt has been computed)
    tokens_computed: positions that went through the model; tokens_cached: prompt positions that the prefix cache spared
    blocks_used, blocks_total: pages of the KV cache with an owner, and in all
    planning_seconds, running_seconds: of steps, on the host and in the model
    gemm_hits, gemm_misses: matrix products, by shape and rows, with a choice of Engine's gemm_config, and without
    """

    requests: int
    finished: int
    running: int
    waiting: int
    steps: int
    preemptions: int
    tokens_computed: int
    tokens_cached: int
    tokens_generated: int
    blocks_used: int
    blocks_total: int
    planning_seconds: float
    running_seconds: float
    gemm_hits: int
    gemm_misses: int


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A learned prompt: type "prefix" or "tuning", length in virtual tokens."""

    name: str
    type: str
    length: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine made of its model and options. Sizes are in bytes, lengths in tokens.

    Of several ranks they are this one's, which runs the layers from first_layer up to last_layer.
    """

    model: str
    load_format: str
    device: str
    device_detail: str
    dtype: str
    quantization: str
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
    quantization_group_size: int  # 0 = a scale for each output, or none
    block_size: int
    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_threads: int
    rank: int
    world_size: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    first_layer: int
    last_layer: int
    ranks: str
    gemm_config: str
    eos_token_ids: list[int]
    warnings: list[str]
    tasks: list[TaskInfo]
    prompt_learning_start_id: int  # ids from here on are virtual tokens of a request's tuning task

    @classmethod
    def of(cls, core: dict[str, Any]) -> EngineInfo:
        """Of the core's dict."""
        return cls(**core | {"tasks": [TaskInfo(**task) for task in core["tasks"]]})
