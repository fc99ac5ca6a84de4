"""/v1/completions: from its body to the engine, and from the engine's outputs to its answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive

from ..driver import Calls
from ..outputs import CompletionOutput, Delta, Logprob, RequestOutput
from ..params import SamplingParams
from .protocol import CompletionBody
from .service import Service, new_id, raise_failed, usage
from .streaming import event
from .texts import CompletionLogprobs, Entries


async def complete(service: Service, body: CompletionBody, receive: Receive) -> Response:
    """Answers one body, or raises ApiError."""
    deadline = service.begin(body)
    with service.naming_fields(body):
        params = _sampling(body)
        prompts = [await service.read(prompt, add_special_tokens=body.add_special_tokens) for prompt in body.prompt]
    return await service.answer(body, prompts, params, make=lambda calls: _Answer(service, body, calls), deadline=deadline, receive=receive)


def _sampling(body: CompletionBody) -> SamplingParams:
    best_of, n = body.best_of, 1 if body.n is None else body.n
    if best_of is not None:
        if best_of < n:
            raise ValueError(f"best_of is {best_of}, expected n = {n} or more")
        if best_of > n and (body.stream or body.beam_width not in (None, 1)):
            raise ValueError(f"best_of is {best_of} with {'stream' if body.stream else 'beam_width'}, expected n = {n}, or to leave it out")
    echoed = body.logprobs if body.echo else None
    return body.sampling(max_tokens=body.max_tokens, n=n if best_of is None else best_of, logprobs=body.logprobs, prompt_logprobs=echoed)


class _Answer:
    def __init__(self, service: Service, body: CompletionBody, calls: Calls) -> None:
        self._service = service
        self._body = body
        self._calls = calls
        self._n = 1 if body.n is None else body.n  # choices of each prompt
        self._with_ids = body.return_token_ids or service.engine.tokenizer is None
        self._head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model or service.names[0],
        }

    def whole(self) -> dict[str, Any]:
        outputs = [request.output for request in self._calls.requests]
        choices: list[dict[str, Any]] = []
        for output in outputs:
            for completion in _best(output.outputs, self._n):
                choices.append(self._choice(len(choices), output, completion))
        return {**self._head, "choices": choices, "usage": self._usage()}

    def _choice(self, index: int, output: RequestOutput, completion: CompletionOutput) -> dict[str, Any]:
        text, logprobs = completion.text, None
        if self._body.logprobs is not None:
            tokens, entries = self._echoed(output)
            logprobs = self._maker().take([*tokens, *completion.token_ids], [*entries, *(completion.logprobs or [])])
        if self._body.echo:
            text = self._prompt_text(output) + text
        choice = {"index": index, "text": text, "logprobs": logprobs}
        choice |= {"finish_reason": completion.finish_reason, "stop_reason": completion.stop_reason}
        if self._with_ids:
            choice |= {"prompt_token_ids": output.prompt_token_ids, "token_ids": completion.token_ids}
        return choice

    async def events(self) -> AsyncIterator[bytes]:
        options = self._body.stream_options
        with_usage = options is not None and options.include_usage
        last = {"usage": None} if with_usage else {}
        makers: dict[int, CompletionLogprobs] = {}
        async for request, delta in self._calls:
            index = request * self._n + delta.index
            if delta.finish_reason == "error":
                raise_failed(self._calls)
            choice = self._piece(index, delta, self._calls.requests[request].output, makers)
            if choice is not None:
                yield event({**self._head, "choices": [choice], **last})
        if with_usage:
            yield event({**self._head, "choices": [], "usage": self._usage()})

    def _piece(self, index: int, delta: Delta, output: RequestOutput, makers: dict[int, CompletionLogprobs]) -> dict[str, Any] | None:
        """A step's part of one choice, None where it has nothing to show yet."""
        text, logprobs, first = delta.text, None, index not in makers
        maker = makers.setdefault(index, self._maker())
        tokens, entries = list(delta.token_ids), list[dict[int, Logprob] | None](delta.logprobs or [])
        if first and self._body.echo:
            text = self._prompt_text(output) + text
            before = self._echoed(output)
            tokens, entries = [*before[0], *tokens], [*before[1], *entries]
        if self._body.logprobs is not None:
            logprobs = maker.take(tokens, entries)
        if not (text or delta.finish_reason or (logprobs and tokens) or self._with_ids):
            return None
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}
        if delta.finish_reason:
            choice["stop_reason"] = output.outputs[delta.index].stop_reason
        if self._with_ids:
            choice["token_ids"] = delta.token_ids
        return choice

    def _maker(self) -> CompletionLogprobs:
        return CompletionLogprobs(self._service.texts, self._body.logprobs if self._body.return_token_ids else None)

    def _echoed(self, output: RequestOutput) -> tuple[list[int], Entries]:
        return (output.prompt_token_ids, output.prompt_logprobs or []) if self._body.echo else ([], [])

    def _prompt_text(self, output: RequestOutput) -> str:
        if output.prompt is not None:
            return output.prompt
        tokenizer = self._service.engine.tokenizer
        return "" if tokenizer is None else tokenizer.decode(output.prompt_token_ids)

    def _usage(self) -> dict[str, Any]:
        outputs = [request.output for request in self._calls.requests]
        generated = sum(len(completion.token_ids) for output in outputs for completion in output.outputs)
        return usage(sum(len(output.prompt_token_ids) for output in outputs), generated)


def _best(completions: list[CompletionOutput], n: int) -> list[CompletionOutput]:
    """The n with the highest log-prob a token, the best first; all in their order where there are no more."""
    if len(completions) <= n:
        return completions
    return sorted(completions, key=lambda one: -one.cumulative_logprob / max(len(one.token_ids), 1))[:n]
