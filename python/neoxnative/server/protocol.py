"""The bodies of requests: OpenAI's fields, and the engine's own by the names of SamplingParams."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from ..params import SamplingParams
from ..prompts import Prompt

# Fields that mean something of which the engine has nothing. Their neutral values are taken, so that clients may always send them.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "guided_json": (None,),
    "structured_outputs": (None,),
}
_SAME_NAMES = (
    ("top_p", "min_p", "typical_p", "top_p_decay", "top_p_min", "top_p_reset_id", "repetition_penalty", "presence_penalty")
    + ("frequency_penalty", "no_repeat_ngram_size", "bad_words", "allowed_token_ids", "beam_width", "length_penalty", "early_stopping")
    + ("beam_search_diversity_rate", "temperature", "min_tokens", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos")
    + ("seed", "n", "logprobs_mode")
)


def _refuse(value: Any, info: Any) -> Any:
    if value not in _REFUSED[info.field_name]:
        raise ValueError("not supported, expected to be left out")
    return value


def _read_prompts(value: Any) -> list[Prompt]:
    def is_ids(item: Any) -> bool:
        return isinstance(item, list) and all(type(token) is int for token in item)

    if isinstance(value, str) or (value and is_ids(value)):
        return [value]
    if isinstance(value, list) and value and (all(isinstance(item, str) for item in value) or all(map(is_ids, value))):
        return value
    raise ValueError("expected a text, a list of texts, a list of token ids, or a list of lists of them, and not an empty list")


def _read_biases(value: dict[str, float] | None) -> dict[str, float] | None:
    for token in value or ():
        if not token.isdecimal():
            raise ValueError(f"{token!r} is not a token id")
    return value


Refused = Annotated[Any, AfterValidator(_refuse)]
Biases = Annotated[dict[str, float] | None, AfterValidator(_read_biases)]
_IDS = {"type": "array", "items": {"type": "integer"}}
_PROMPT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, _IDS, {"type": "array", "items": _IDS}]}
PromptList = Annotated[list[Any], PlainValidator(_read_prompts), WithJsonSchema(_PROMPT_SCHEMA)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False  # OpenAI's padding against listeners: there is none here


class GenerationBody(Body):
    """What completions and chat have in common. None is the same as leaving a field out."""

    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str | list[int]] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Biases = None
    seed: int | None = None
    user: str | None = None  # this and the next three are for OpenAI's own accounts: they change nothing here
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None

    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_p_decay: float | None = None
    top_p_min: float | None = None
    top_p_reset_id: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    bad_words: str | list[str | list[int]] | None = None
    allowed_token_ids: list[int] | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    beam_search_diversity_rate: float | None = None
    logprobs_mode: Literal["raw", "processed"] | None = None
    task: str | None = None
    timeout: float | None = Field(None, gt=0)
    return_token_ids: bool = False

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is there, but stream is not true")
        return self

    def sampling(self, **fields: Any) -> SamplingParams:
        """SamplingParams of this body, with `fields` in the place of its own. ValueError names the field."""
        given = {name: getattr(self, name) for name in _SAME_NAMES}
        if self.logit_bias:
            given["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        if self.top_k is not None:
            given["top_k"] = 0 if self.top_k == -1 else self.top_k  # vLLM's -1 is all, too
        return SamplingParams(**{name: value for name, value in {**given, **fields}.items() if value is not None})


class CompletionBody(GenerationBody):
    prompt: PromptList
    max_tokens: int | None = None
    best_of: int | None = None
    logprobs: int | None = None
    echo: bool | None = None
    add_special_tokens: bool = True
    suffix: Refused = None
    response_format: Refused = None
    guided_json: Refused = None
    structured_outputs: Refused = None


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: str
    content: str | list[TextPart]
    name: str | None = None

    def rendered(self) -> dict[str, str]:
        """As templates take it."""
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": self.role, "content": content}


class ChatBody(GenerationBody):
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool = True
    parallel_tool_calls: bool | None = None  # no effect, as the next two
    store: bool | None = None
    metadata: dict[str, str] | None = None
    tools: Refused = None
    tool_choice: Refused = None
    functions: Refused = None
    function_call: Refused = None
    response_format: Refused = None
    modalities: Refused = None
    audio: Refused = None
    guided_json: Refused = None
    structured_outputs: Refused = None


class TokenizeBody(Body):
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Body):
    tokens: list[int]
