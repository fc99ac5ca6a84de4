"""What the endpoints share: the engine, its names and limits, and a request's way into it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from ..chat_templates import ChatTemplate, find_chat_template
from ..driver import Calls
from ..engine import Engine
from ..params import SamplingParams
from ..prompts import Prompt, TokenPrompt, check_text
from .errors import ApiError, of_request
from .gate import Gate
from .metrics import Metrics, Watch
from .options import ServerOptions
from .protocol import GenerationBody, Message
from .streaming import Deadline, EventStream, in_time, unless_left
from .texts import TokenTexts

_LONG_TEXT = 4096  # characters; tokenizing more would hold up other requests, and goes to a thread


class Answer(Protocol):
    """What an endpoint makes of its calls."""

    def whole(self) -> dict[str, Any]: ...

    def events(self) -> AsyncIterator[bytes]: ...


class Service:
    """One engine behind the endpoints.

    model: what the engine was opened by, its name where `options` has none
    """

    def __init__(self, engine: Engine, options: ServerOptions, model: str) -> None:
        self.engine = engine
        self.options = options
        self.names = list(options.served_model_name) or [model]
        self.created = int(time.time())
        self.folder = Path(engine.info.model)
        self.texts = TokenTexts(engine.tokenizer)
        self.gate = Gate(engine.info.max_num_seqs, options.max_queued_requests)
        self.metrics = Metrics(engine, self.gate, self.names[0])
        self.chat_template = find_chat_template(options.chat_template, self.folder)
        if self.chat_template is not None:
            self.chat_template.check()

    def check_model(self, name: str | None) -> None:
        if name is not None and name not in self.names:
            message = f"the model {name!r} is not served here, but {', '.join(map(repr, self.names))}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_alive(self) -> None:
        """ApiError 503 where no request would be answered."""
        if self.engine.driver.error is not None:
            raise ApiError(503, f"the engine has failed: {self.engine.driver.error}", code="engine_failed")
        self.gate.check(0)

    def begin(self, body: GenerationBody) -> Deadline:
        """From when on a request's time counts. ApiError where it would not be answered."""
        self.check_alive()
        self.check_model(body.model)
        limits = [seconds for seconds in (body.timeout, self.options.request_timeout) if seconds]
        return Deadline.after(min(limits, default=0))

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise ApiError(400, f"{self.names[0]} has no tokenizer: send token ids", param="prompt")
        check_text(text, "the prompt")
        if len(text) < _LONG_TEXT:
            return tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens=add_special_tokens)

    async def read(self, prompt: Prompt, *, add_special_tokens: bool) -> TokenPrompt:
        if not isinstance(prompt, str):
            return self.engine._read(prompt)
        return TokenPrompt(prompt, np.array(await self.encode(prompt, add_special_tokens=add_special_tokens), np.int32))

    def template(self) -> ChatTemplate:
        if self.chat_template is None:
            message = f"{self.names[0]} has no chat template: start the server with --chat-template, or use /v1/completions"
            raise ApiError(400, message, param="messages", code="no_chat_template")
        return self.chat_template

    async def encode_chat(self, messages: list[Message], *, add_generation_prompt: bool, add_special_tokens: bool = False) -> TokenPrompt:
        """A conversation as a prompt. Templates bring special tokens themselves."""
        template = self.template()
        try:
            text = template.render([message.rendered() for message in messages], add_generation_prompt=add_generation_prompt)
        except Exception as error:  # whatever a template does
            raise ApiError(400, f"the chat template refused the messages: {error}", param="messages") from None
        return await self.read(text, add_special_tokens=add_special_tokens)

    @contextmanager
    def naming_fields(self, body: GenerationBody) -> Iterator[None]:
        """What the engine has against a request becomes an answer that names the field."""
        try:
            yield
        except Exception as error:
            raise of_request(error, type(body).model_fields) from error

    async def answer(
        self,
        body: GenerationBody,
        prompts: list[TokenPrompt],
        params: SamplingParams,
        *,
        make: Callable[[Calls], Answer],
        deadline: Deadline,
        receive: Receive,
    ) -> Response:
        """Runs the prompts, and sends what `make` makes of them: as a stream, or once it is whole. ApiError where a request fails."""
        with ExitStack() as held:
            calls = self._submit(held, body, prompts, params)
            answer = make(calls)
            if body.stream:
                return EventStream(answer.events(), held.pop_all(), deadline)
            async with in_time(deadline):
                await unless_left(receive, _ended(calls))
            return JSONResponse(answer.whole())

    def _submit(self, held: ExitStack, body: GenerationBody, prompts: list[TokenPrompt], params: SamplingParams) -> Calls:
        """The requests' way into the engine, as long as `held` is open."""
        with self.naming_fields(body):
            self.check_alive()
            held.enter_context(self.gate.enter(len(prompts) * max(params.n, params.beam_width)))
            watch = Watch(self.metrics)
            pairs = [(prompt._replace(task=body.task or ""), params) for prompt in prompts]
            calls = self.engine.driver.open(pairs, whole=not body.stream, watch=watch)
            held.callback(calls.close)
            watch.submitted(calls.requests)
        return calls


def new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}


async def _ended(calls: Calls) -> None:
    """Waits for all of a call's requests; ApiError for the first that failed, or for all where the engine has."""
    try:
        async for _ in calls:
            pass
    except Exception as error:
        raise of_request(error) from error
    raise_failed(calls)


def raise_failed(calls: Calls) -> None:
    """The first error of a call's requests that have ended."""
    for request in calls.requests:
        for completion in request.output.outputs:
            if completion.error is not None:
                raise of_request(completion.error)
