"""/v1/chat/completions: from its body to the engine, and from the engine's outputs to its answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive

from ..driver import Calls
from ..outputs import CompletionOutput, Delta, Logprob
from ..params import SamplingParams
from ..prompts import TokenPrompt
from .protocol import ChatBody
from .service import Service, new_id, raise_failed, usage
from .streaming import event
from .texts import token_logprobs


async def chat(service: Service, body: ChatBody, receive: Receive) -> Response:
    """Answers one body, or raises ApiError."""
    deadline = service.begin(body)
    prompt = await service.encode_chat(body.messages, add_generation_prompt=body.add_generation_prompt)
    with service.naming_fields(body):
        params = _sampling(service, body, prompt)
    return await service.answer(
        body, [prompt], params, make=lambda calls: _Answer(service, body, calls), deadline=deadline, receive=receive
    )


def _sampling(service: Service, body: ChatBody, prompt: TokenPrompt) -> SamplingParams:
    if body.top_logprobs is not None and not body.logprobs:
        raise ValueError("top_logprobs without logprobs: expected logprobs to be true")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise ValueError(f"max_tokens is {body.max_tokens} and max_completion_tokens {body.max_completion_tokens}, expected one of them")
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    room = max(service.engine.info.max_model_len - len(prompt.ids), 1)
    assert service.engine.tokenizer is not None  # the prompt was a text
    texts, ids = service.template().stops(service.engine.tokenizer)
    own = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return body.sampling(
        max_tokens=room if asked is None else asked,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        stop=[*texts, *own],
        stop_token_ids=[*ids, *(body.stop_token_ids or [])],
    )


class _Answer:
    def __init__(self, service: Service, body: ChatBody, calls: Calls) -> None:
        self._service = service
        self._body = body
        self._calls = calls
        self._output = calls.requests[0].output
        self._id = new_id("chatcmpl")
        self._created = int(time.time())

    def whole(self) -> dict[str, Any]:
        choices = [self._choice(completion) for completion in self._output.outputs]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage()}

    def _choice(self, completion: CompletionOutput) -> dict[str, Any]:
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        choice = {"index": completion.index, "message": message, "logprobs": self._logprobs(completion.token_ids, completion.logprobs)}
        choice |= {"finish_reason": completion.finish_reason, "stop_reason": completion.stop_reason}
        if self._body.return_token_ids:
            choice["token_ids"] = completion.token_ids
        return choice

    async def events(self) -> AsyncIterator[bytes]:
        head, options = self._head("chat.completion.chunk"), self._body.stream_options
        with_usage = options is not None and options.include_usage
        last = {"usage": None} if with_usage else {}
        begun: set[int] = set()
        async for _, delta in self._calls:
            if delta.finish_reason == "error":
                raise_failed(self._calls)
            if delta.index not in begun:
                begun.add(delta.index)
                first = {"index": delta.index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
                yield event({**head, "choices": [first], **last})
            choice = self._piece(delta)
            if choice is not None:
                yield event({**head, "choices": [choice], **last})
        if with_usage:
            yield event({**head, "choices": [], "usage": self._usage()})

    def _piece(self, delta: Delta) -> dict[str, Any] | None:
        """A step's part of one choice, None where it has nothing to show yet."""
        logprobs = self._logprobs(delta.token_ids, delta.logprobs)
        if not (delta.text or delta.finish_reason or logprobs or self._body.return_token_ids):
            return None
        content = {"content": delta.text} if delta.text else {}
        choice = {"index": delta.index, "delta": content, "logprobs": logprobs, "finish_reason": delta.finish_reason}
        if delta.finish_reason:
            choice["stop_reason"] = self._output.outputs[delta.index].stop_reason
        if self._body.return_token_ids:
            choice["token_ids"] = delta.token_ids
        return choice

    def _logprobs(self, tokens: list[int], entries: list[dict[int, Logprob]] | None) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        top, with_ids = self._body.top_logprobs or 0, self._body.return_token_ids
        return {"content": token_logprobs(self._service.texts, tokens, entries or [], top, with_ids=with_ids)}

    def _head(self, kind: str) -> dict[str, Any]:
        model = self._body.model or self._service.names[0]
        return {"id": self._id, "object": kind, "created": self._created, "model": model}

    def _usage(self) -> dict[str, Any]:
        generated = sum(len(completion.token_ids) for completion in self._output.outputs)
        return usage(len(self._output.prompt_token_ids), generated)
