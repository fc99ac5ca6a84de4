"""What the engine still has to do, and for whom: requests on their way, and the queues of the calls that wait for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .outputs import CompletionOutput, Delta, Logprob, RequestOutput
from .params import SamplingParams
from .prompts import Prompt, Prompts, TokenPrompt, naming, split_prompts
from .tokenizer import AnyTokenizer


class Request:
    """A submitted request: what it has produced so far, and the queue of the call that waits for it."""

    __slots__ = ("_open", "_params", "_tokenizer", "output", "queue")

    def __init__(
        self, request_id: int, prompt: TokenPrompt, params: SamplingParams, tokenizer: AnyTokenizer | None, queue: deque[Delta]
    ) -> None:
        outputs = [CompletionOutput(index, logprobs=None if params.logprobs is None else []) for index in range(params.n)]
        self.output = RequestOutput(request_id, prompt.text, prompt.ids.tolist(), outputs)
        self.queue = queue
        self._open = params.n
        self._params = params
        self._tokenizer = tokenizer

    def take(self, raw: dict[str, Any]) -> Delta:
        """Adds one of the core's deltas to the output, and returns it as users see it."""
        completion = self.output.outputs[raw["index"]]
        token_logprobs = [entry["logprob"] for entry in raw["logprobs"]]
        logprobs = None if self._params.logprobs is None else [self._logprobs(entry) for entry in raw["logprobs"]]
        completion.token_ids += raw["token_ids"]
        completion.token_logprobs += token_logprobs
        if completion.logprobs is not None and logprobs is not None:
            completion.logprobs += logprobs
        completion.text += raw["text"]
        completion.finish_reason = raw["finish"]
        completion.stop_reason = raw["stop_string"] or (raw["stop_token"] if raw["stop_token"] >= 0 else None)
        if self._params.beam_width > 1:
            completion.score = raw["score"]
        completion.error = raw["error"] or None
        if self._params.prompt_logprobs is not None and raw["index"] == 0 and self.output.prompt_logprobs is None:
            self._take_prompt(raw["prompt_logprobs"])
        self._open -= raw["finish"] is not None
        return Delta(
            request_id=raw["request_id"],
            index=raw["index"],
            token_ids=raw["token_ids"],
            token_logprobs=token_logprobs,
            logprobs=logprobs,
            text=raw["text"],
            finish_reason=raw["finish"],
            output=None if self._open else self.output,
        )

    def _take_prompt(self, entries: list[dict[str, Any]]) -> None:
        skipped: list[dict[int, Logprob] | None] = [None] * (len(self.output.prompt_token_ids) - len(entries))
        self.output.prompt_logprobs = skipped + [None if entry["id"] < 0 else self._logprobs(entry) for entry in entries]

    def _logprobs(self, entry: dict[str, Any]) -> dict[int, Logprob]:
        out = {token: Logprob(logprob, rank, self._decode(token)) for rank, (token, logprob) in enumerate(entry["top"])}
        out[entry["id"]] = Logprob(entry["logprob"], entry["rank"], self._decode(entry["id"]))
        return out

    def _decode(self, token: int) -> str | None:
        return None if self._tokenizer is None else self._tokenizer.piece(token)


def paired(
    prompts: Prompts, params: SamplingParams | Sequence[SamplingParams] | None, read: Callable[[Prompt], TokenPrompt]
) -> list[tuple[TokenPrompt, SamplingParams]]:
    """Each of a call's prompts with its params."""
    tokens = []
    for i, prompt in enumerate(split_prompts(prompts)):
        with naming(i):
            tokens.append(read(prompt))
    if params is None or isinstance(params, SamplingParams):
        params = [params or SamplingParams()] * len(tokens)
    if wrong := [entry for entry in params if not isinstance(entry, SamplingParams)]:
        raise TypeError(f"params holds {type(wrong[0]).__name__}, expected SamplingParams, or one for each prompt")
    if len(params) != len(tokens):
        raise ValueError(f"params has {len(params)} entries for {len(tokens)} prompts: expected one, or one for each prompt")
    return list(zip(tokens, params))


def raise_if_all_failed(outputs: list[RequestOutput]) -> list[RequestOutput]:
    """The outputs of a call; its first error if it has nothing else to give."""
    errors = [completion.error for output in outputs for completion in output.outputs]
    if errors and all(errors):
        raise errors[0]  # type: ignore[misc]
    return outputs
