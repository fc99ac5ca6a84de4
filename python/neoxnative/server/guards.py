"""What stands before the endpoints: keys, the size of bodies, and a count of the answers."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .metrics import Metrics

# for probes, and for browsers, which send no key by themselves: nothing of a request or an answer is there
_OPEN = ("/health", "/ping", "/metrics", "/version", "/", "/docs", "/openapi.json")


class KeyCheck:
    """Answers 401 to requests without one of the keys; with no keys, lets all in."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or scope["path"] in _OPEN or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(401, "the Authorization header has no valid API key, expected 'Bearer KEY'", code="invalid_api_key")
        error.headers["WWW-Authenticate"] = "Bearer"
        await error.response()(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        matches = [hmac.compare_digest(key, known) for known in self._keys]  # all of them, in constant time
        return scheme.lower() == b"bearer" and any(matches)


class BodyLimit:
    """Answers 413 to longer bodies, without reading them to the end."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = f"the body is longer than {self._limit} bytes (--max-request-bytes)"
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limit:
            await ApiError(413, message, code="body_too_large").response()(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            part = await receive()
            got += len(part.get("body", b""))
            if got > self._limit:
                raise HTTPException(413, message)
            return part

        await self._app(scope, counted, send)


class StatusCount:
    """Counts answers by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.answered(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted)
