"""Folders that are there whole or not at all, filled by several threads within a bound of memory."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..progress import StatusLine, bar
from .values import Array, cast

_IN_FLIGHT = 256 << 20  # bytes of tensors that are being worked on; a larger one is alone
_PIECE = 8 << 20  # bytes converted at a time


@dataclass(frozen=True)
class Job:
    """One tensor's way into its files. bytes: of the tensor as it is read."""

    name: str
    bytes: int
    write: Callable[[Path], None]


@contextmanager
def whole_folder(target: Path, *, bytes_needed: int, overwrite: bool) -> Iterator[Path]:
    """A new folder `<target>.partial` to write into, which takes target's place when the block ends well and goes when it does not.

    What a killed process left of it is removed by the next one. FileExistsError: there is something in target, or at work on it.
    """
    if not overwrite and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} is there: expected no such folder, or an empty one, or to be told to overwrite it")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file, expected a folder to overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < bytes_needed:
        raise OSError(f"{target.parent} has {free / 1e9:.2f} GB free, expected {bytes_needed / 1e9:.2f} GB for {target.name}")
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"{partial} is in use: another conversion writes {target} right now") from None
        _empty(partial)
        try:
            yield partial
            _sync(partial)
            _replace(target, partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(target: Path, new: Path) -> None:
    old = target.with_name(target.name + ".replaced")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    new.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_file(path: Path, array: Array, dtype: str) -> None:
    """A headerless file of the array's values in C order, in that type, converted piece by piece."""
    with path.open("wb") as file:
        for piece in pieces(array, dtype):
            file.write(piece.data)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def pieces(array: Array, dtype: str) -> Iterator[Array]:
    """The array in that type, in contiguous pieces along its first axis."""
    rows = max(1, _PIECE // max(1, array[:1].size * 4))
    for first in range(0, len(array), rows):
        yield cast(array[first : first + rows], dtype)


class _Budget:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._used = 0

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + size <= _IN_FLIGHT)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


def run(jobs: Sequence[Job], folder: Path, *, threads: int | None, text: str) -> None:
    """Runs all jobs, with a bar on a terminal. The first error, in which the tensor is named, ends them all."""
    if threads is not None and threads < 1:
        raise ValueError(f"the number of threads is {threads}, expected 1 or more")
    total, done = sum(job.bytes for job in jobs), 0
    budget, guard = _Budget(), threading.Lock()
    failed = threading.Event()
    with StatusLine() as line, ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:

        def work(job: Job) -> None:
            nonlocal done
            with budget.take(job.bytes):
                if failed.is_set():
                    return
                try:
                    job.write(folder)
                except FloatingPointError:
                    failed.set()
                    message = f"{job.name} has values beyond float16's 65504, expected none: convert to bfloat16 or float32"
                    raise ValueError(message) from None
                except BaseException:
                    failed.set()
                    raise
            with guard:
                done += job.bytes
                line.show(f"{bar(done, max(total, 1))} {done / 1e9:.2f} of {total / 1e9:.2f} GB, {text}")

        futures = [pool.submit(work, job) for job in jobs]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C
            failed.set()
            raise
        for future in finished:
            future.result()
