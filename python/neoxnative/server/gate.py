"""How much a server takes on at once, and its way to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ApiError

_RETRY_AFTER = "1"  # seconds: a step is shorter, and each may end requests


class Gate:
    """Counts sequences on their way, of at most `running` + `queued`.

    Of a request there are prompts x max(n, beam_width) sequences. All methods are the event loop's.
    """

    def __init__(self, running: int, queued: int) -> None:
        self._limit = running + queued
        self._inside = 0
        self._closed: str | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        return self._inside

    @property
    def closed(self) -> str | None:
        """Why no request is let in any more."""
        return self._closed

    def check(self, sequences: int) -> None:
        """ApiError 503 once closed, 429 where there is no room now, 400 where there never will be."""
        if self._closed is not None:
            raise ApiError(503, self._closed, code="shutting_down")
        if sequences > self._limit:
            raise ApiError(400, f"the request is of {sequences} sequences, expected {self._limit} at most: send it in parts")
        if self._inside + sequences > self._limit:
            message = f"{self._inside} sequences are running or waiting, and {self._limit} may: try again later"
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": _RETRY_AFTER})

    @contextmanager
    def enter(self, sequences: int) -> Iterator[None]:
        self.check(sequences)
        self._inside += sequences
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= sequences
            if not self._inside:
                self._empty.set()

    def close(self, why: str) -> None:
        self._closed = self._closed or why

    async def emptied(self) -> None:
        await self._empty.wait()
