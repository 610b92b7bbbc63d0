"""What the disk did not take, and what is done about it. Plain Python."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

RETRY = 2.0
"""[s] after which a write that failed is tried again, where it has no period of its own."""


class WriteFaults:
    """Learning goes on without what could not be written: that is a fault until the same thing is written."""

    def __init__(
        self, counters: Counter[str], error: Callable[[str], object], info: Callable[[str], object]
    ) -> None:
        """Counts in `counters`; `error` and `info` are told of the first failure, and of the end of it."""
        self._counters, self._error, self._info = counters, error, info
        self._why: dict[str, str] = {}
        self._failed_at: dict[str, float] = {}

    @property
    def text(self) -> str:
        """What is not written and why; empty while all is."""
        return "; ".join(f"{what} not written: {why}" for what, why in self._why.items())

    def due(self, what: str, pause: float = RETRY) -> bool:
        """Whether it may be tried: it has not failed in the last `pause` [s]."""
        return what not in self._why or time.monotonic() - self._failed_at[what] >= pause

    def failed(self, what: str, error: OSError) -> None:
        """A write has failed."""
        self._counters["failed_writes"] += 1
        if what not in self._why:
            self._error(f"{what} not written, learning goes on and it is tried again: {error}")
        self._why[what] = str(error)
        self._failed_at[what] = time.monotonic()

    def written(self, what: str) -> None:
        """A write has succeeded."""
        if self._why.pop(what, ""):
            self._info(f"{what} written again")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Do without what is written within, if the disk refuses."""
        try:
            yield
        except OSError as error:
            self.failed(what, error)
        else:
            self.written(what)
