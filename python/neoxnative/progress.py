"""One line on a terminal that says how far a long call is; nothing where stderr is a file or a pipe."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_INTERVAL = 0.1  # seconds between two texts
_BAR = 20  # characters


class StatusLine:
    """A line that each `show` writes anew, and that is gone when the `with` block ends.

    stream: where it is written if that is a terminal; None = stderr
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._last: float | None = None  # when the line was written

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._write("")

    def show(self, text: str) -> None:
        """Writes the line, unless it was written a moment ago."""
        now = time.monotonic()
        if self._terminal and (self._last is None or now - self._last >= _INTERVAL):
            self._last = now
            self._write(text[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        self._stream.write(f"\r{text}\x1b[K")  # the last: erase what is right of it
        self._stream.flush()


def bar(done: int, total: int) -> str:
    filled = _BAR * done // total
    return f"[{'#' * filled}{'.' * (_BAR - filled)}]"


@contextmanager
def announced(text: str, *, after: float = 0.5, stream: TextIO | None = None) -> Iterator[Callable[[int, int], None]]:
    """Shows the text while the block runs, from `after` seconds on, with how many layers are done once the block tells it."""
    start = time.monotonic()
    with StatusLine(stream) as line:

        def tell(done: int, layers: int) -> None:
            if time.monotonic() - start >= after:
                line.show(f"{bar(done, layers)} {done} of {layers} layers, {text}")

        timer = threading.Timer(after, line.show, [text])
        timer.start()
        try:
            yield tell
        finally:
            timer.cancel()
            timer.join()
