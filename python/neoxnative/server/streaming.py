"""Answers that end when the client goes away or time is up, whichever way they are sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import ApiError, of_request

T = TypeVar("T")
_DONE = b"data: [DONE]\n\n"
_GRACE = 2.0  # seconds past the deadline in which a client can still be told of it
_CLOSED_REQUEST = 499  # nginx's status for it, for the log: nobody reads the answer


class ClientLeft(Exception):
    """The client closed the connection before it had its answer."""


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def unless_left(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Cancels it, and raises ClientLeft, once the client is gone."""
    worker = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientLeft
        return worker.result()
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def left_response() -> Response:
    return Response(status_code=_CLOSED_REQUEST)


@asynccontextmanager
async def in_time(deadline: Deadline) -> AsyncIterator[None]:
    """ApiError 504 once the deadline has passed."""
    try:
        async with asyncio.timeout_at(deadline.at):
            yield
    except TimeoutError:
        raise ApiError(504, f"the request was not done after {deadline.seconds:g} s", code="timeout") from None


class Deadline(NamedTuple):
    seconds: float  # that the request was given
    at: float | None  # on the event loop's clock, None = none

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(seconds, asyncio.get_running_loop().time() + seconds if seconds else None)


class EventStream(Response):
    """Server-sent events. A slow reader delays nobody: what it has not taken waits in memory, as much as its request may produce.

    events: of which an error becomes the last event
    held: closed at the end, however it comes about
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], held: ExitStack, deadline: Deadline) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        self._events = events
        self._held = held
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last = None if self._deadline.at is None else self._deadline.at + _GRACE
        with self._held, suppress(ClientLeft, TimeoutError):  # an answer that has not ended is cut off by the server
            async with asyncio.timeout_at(last):
                await unless_left(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async def put(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with in_time(self._deadline):
                async for data in self._events:
                    await put(data)
        except Exception as error:
            await put(event(of_request(error).body()))
        await put(_DONE, more=False)
