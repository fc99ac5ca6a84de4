"""Requests of event loops: a thread steps the engine while any of them is open, and wakes each loop once a step."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from .outputs import Delta, RequestOutput
from .params import SamplingParams
from .prompts import Prompt, Prompts, TokenPrompt, naming
from .requests import paired, raise_if_all_failed

if TYPE_CHECKING:
    from .engine import Engine
    from .requests import Request


class AsyncCalls:
    """What Engine offers to asyncio. Its requests share the steps with those of all other calls."""

    @functools.cached_property
    def driver(self) -> Driver:
        """What steps for the calls below."""
        return Driver(cast("Engine", self))

    async def agenerate(
        self,
        prompts: Prompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """As `generate`, while the event loop goes on. Cancelling the task cancels the requests."""
        outputs: dict[int, RequestOutput] = {}
        pairs = paired(prompts, params, cast("Engine", self)._read)
        with self.driver.open(pairs, whole=True) as calls:
            async for index, delta in calls:
                if delta.output is not None:
                    outputs[index] = delta.output
        return raise_if_all_failed([outputs[index] for index in range(len(pairs))])

    async def astream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
    ) -> AsyncIterator[Delta]:
        """As `stream`, for `async for`. Closing the iterator, or cancelling the task, cancels the request."""
        with self.driver.open([(cast("Engine", self)._read(prompt), params or SamplingParams())]) as calls:
            async for _, delta in calls:
                if delta.output is not None and delta.output.outputs[delta.index].error is not None:
                    raise delta.output.outputs[delta.index].error  # type: ignore[misc]
                yield delta


class Calls:
    """Some requests of one task, which takes (index of the request, Delta) from them until all have ended. Closing cancels them.

    whole: only each request's last Delta is handed over, which holds its output
    watch: called with each index and Delta on the driver's thread, where it must not wait
    """

    def __init__(self, driver: Driver, *, whole: bool, watch: Callable[[int, Delta], None] | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.requests: list[Request] = []
        self.open = 0  # requests whose last Delta has not been taken
        self.whole = whole
        self.watch = watch
        self._driver = driver
        self._arrived: deque[tuple[int, Delta]] = deque()
        self._ready = asyncio.Event()
        self._error: Exception | None = None

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Calls:
        return self

    async def __anext__(self) -> tuple[int, Delta]:
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if not self.open:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        index, delta = self._arrived.popleft()
        self.open -= delta.finished
        return index, delta

    def close(self) -> None:
        """Cancels the requests that have not ended. Safe to call again."""
        self._driver.abandon(self.requests)

    def put(self, index: int, delta: Delta) -> None:
        self._arrived.append((index, delta))
        self._ready.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._ready.set()


class Driver:
    """Steps an engine on a thread of its own, which is there while a request is open."""

    def __init__(self, engine: Engine) -> None:
        self.error: Exception | None = None  # what ended the engine
        self._engine = engine
        self._queue: deque[Delta] = deque()
        self._changed = threading.Lock()  # guards the three below
        self._open: dict[int, tuple[Calls, int] | None] = {}  # None: nobody waits for it any more
        self._running = False
        self._thread: threading.Thread | None = None

    def open(
        self,
        pairs: Iterable[tuple[TokenPrompt, SamplingParams]],
        *,
        whole: bool = False,
        watch: Callable[[int, Delta], None] | None = None,
    ) -> Calls:
        """Submits requests from the running event loop's thread. If one is refused, none stays."""
        self._engine._lead("astream")
        calls = Calls(self, whole=whole, watch=watch)
        try:
            for index, (prompt, params) in enumerate(pairs):
                with naming(index):
                    self._submit(calls, index, prompt, params)
        except BaseException:
            calls.close()
            raise
        return calls

    def _submit(self, calls: Calls, index: int, prompt: TokenPrompt, params: SamplingParams) -> None:
        with self._changed:
            with self._engine._changed:  # no step of another thread may end the request before it is known here
                request_id = self._engine._submit(prompt, params, self._queue)
                calls.requests.append(self._engine._requests[request_id])
            self._open[request_id] = (calls, index)
            calls.open += 1
            if not self._running:
                self._running = True
                self._thread = threading.Thread(target=self._run, name="neoxnative-engine")
                self._thread.start()

    def abandon(self, requests: Iterable[Request]) -> None:
        """Cancels those of `requests` that have not ended; nobody is told of what still comes of them."""
        with self._changed:
            for request in requests:
                request_id = request.output.request_id
                if self._open.get(request_id) is not None:
                    self._open[request_id] = None  # the thread has to step on until the engine has let go of its pages
                    self._engine.cancel(request_id)

    def _run(self) -> None:
        try:
            while self._any_open():
                for loop, batch in self._sorted(self._engine._next(self._queue)).items():
                    try:
                        loop.call_soon_threadsafe(_hand_over, batch)
                    except RuntimeError:  # the loop was closed with requests open
                        for calls, _, _ in batch:
                            calls.close()
        except Exception as error:  # a failed step ends the engine
            self._fail(error)

    def _any_open(self) -> bool:
        with self._changed:
            self._running = bool(self._open)
            return self._running

    def _sorted(self, deltas: Iterable[Delta]) -> dict[asyncio.AbstractEventLoop, list[tuple[Calls, int, Delta]]]:
        """Each loop's part of a step."""
        batches: dict[asyncio.AbstractEventLoop, list[tuple[Calls, int, Delta]]] = {}
        for delta in deltas:
            with self._changed:
                whose = self._open.pop(delta.request_id) if delta.finished else self._open[delta.request_id]
            if whose is None:
                continue
            calls, index = whose
            if calls.watch is not None:
                calls.watch(index, delta)
            if delta.finished or not calls.whole:
                batches.setdefault(calls.loop, []).append((calls, index, delta))
        return batches

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self.error = error
            waiting = {id(whose[0]): whose[0] for whose in self._open.values() if whose is not None}
            self._open.clear()
            self._running = False
        for calls in waiting.values():
            if not calls.loop.is_closed():
                calls.loop.call_soon_threadsafe(calls.fail, error)


def _hand_over(batch: list[tuple[Calls, int, Delta]]) -> None:
    for calls, index, delta in batch:
        calls.put(index, delta)
