"""Calls that the processes of an MPI job make together: all with the same arguments, and all get what came of it on rank 0."""

from __future__ import annotations

import atexit
import functools
import hashlib
import inspect
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np

from . import _core

P = ParamSpec("P")
R = TypeVar("R")


def collective(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Makes a method of Engine one that all of its MPI ranks call together."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        ranks: MpiRanks | None = self._ranks
        if ranks is None or ranks.is_inside():
            return method(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = list(bound.arguments.items())[1:]
        words = [f"call: {method.__name__}", *(f"{name}: {_described(value)}" for name, value in arguments)]
        return ranks.call("\n".join(words), lambda: method(self, *args, **kwargs))

    return cast(Callable[Concatenate[Any, P], R], call)


class MpiRanks:
    """This process's place among an engine's MPI ranks."""

    def __init__(self, core: _core.Engine, rank: int) -> None:
        self.rank = rank
        self._core = core
        self._turn = threading.RLock()
        self._inside = False
        self._followed = False
        atexit.register(self._at_exit)

    def is_inside(self) -> bool:
        """Whether this thread is in a collective call already, or the other ranks just follow."""
        if self._followed:
            return True
        if not self._turn.acquire(blocking=False):
            return False
        try:
            return self._inside
        finally:
            self._turn.release()

    def call(self, words: str, work: Callable[[], R]) -> R:
        with self._turn:
            self._core.meet(words)
            if self.rank != 0:
                outcome, failed = pickle.loads(self._core.follow())
                if failed:
                    raise outcome
                return outcome  # type: ignore[no-any-return]
            self._inside = True
            try:
                result = work()
                self._tell(result, failed=False)
                return result
            except Exception as error:
                self._tell(error, failed=True)
                raise
            except BaseException as stop:  # Ctrl-C is not theirs
                self._tell(RuntimeError(f"rank 0 was stopped: {type(stop).__name__}"), failed=True)
                raise
            finally:
                self._inside = False

    def lead(self, what: str) -> None:
        """Before rank 0 uses the engine by itself: the others have to be in follow()."""
        if self.rank != 0:
            raise RuntimeError(f"{what}() was called on rank {self.rank}, expected rank 0: the other ranks call follow()")
        with self._turn:
            if not self._followed and not self._inside:
                self._core.meet("call: follow")
                self._followed = True

    def follow(self) -> None:
        if self.rank == 0:
            raise RuntimeError("follow() was called on rank 0, which drives: the other ranks call it")
        with self._turn:
            self._core.meet("call: follow")
            self._core.follow()

    def release(self) -> None:
        with self._turn:
            if self._followed:
                self._followed = False
                self._core.release(b"")

    def _tell(self, outcome: Any, *, failed: bool) -> None:
        if not self._core.failed():
            self._core.release(pickle.dumps((outcome, failed)))

    def _at_exit(self) -> None:
        if self._core.failed():
            _leave_without_mpi()
        elif self.rank == 0:
            self.release()


@contextmanager
def born_together(comm: Any) -> Iterator[None]:
    """While the ranks make their engine: one that is missing must not be waited for at exit either."""
    try:
        yield
    except RuntimeError as error:
        if comm is not None and not isinstance(error, NotImplementedError):
            atexit.register(_leave_without_mpi)
        raise


def _leave_without_mpi() -> None:
    """At exit, after a fault: MPI_Finalize would wait for ranks that are no more."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def mpi_options(comm: Any) -> dict[str, Any]:
    """How the core is told of mpi4py's communicator."""
    if comm is None:
        return {"ranks": "threads", "mpi_comm": None, "mpi_library": ""}
    if not hasattr(comm, "py2f"):
        raise TypeError(f"comm is {comm!r}, expected a communicator of mpi4py, such as MPI.COMM_WORLD")
    mpi = sys.modules[type(comm).__module__]
    return {"ranks": "mpi", "mpi_comm": comm.py2f(), "mpi_library": mpi.Get_library_version().rstrip("\0")}


def _described(value: Any) -> str:
    """One line that differs where the values do."""
    whole = _whole(value)
    if len(whole) <= 100 and "\n" not in whole:
        return whole
    return f"{whole[:60]!r}... (digest {hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()})"


def _whole(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)} {hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=8).hexdigest()}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_whole(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        if set(map(type, value)) == {int}:  # token ids: what follows would give the same, four times as slowly
            return repr(list(value))
        return f"[{', '.join(map(_whole, value))}]"
    return repr(value)
