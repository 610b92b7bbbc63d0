"""What one sees while a demo runs: a line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

PLAIN_EVERY = 10.0
"""[s] between two lines where there is no terminal."""


class Progress:
    """Parts with expected durations; the time left is scaled by how long finished parts took."""

    def __init__(self, expected: Mapping[str, float], out: TextIO = sys.stdout) -> None:
        self._expected = dict(expected)
        self._out = out
        self._live = out.isatty()
        self._part, self._began, self._printed = "", 0.0, 0.0
        self._done_expected = self._done_real = 0.0

    def begin(self, part: str) -> None:
        """Start a part; it must be one of the expected ones."""
        self._part, self._began, self._printed = part, time.monotonic(), 0.0
        self.update(0.0, "starting")

    def skip(self, part: str) -> None:
        """A part that an earlier run has done."""
        self._expected.pop(part)

    def end(self, text: str) -> float:
        """Finish the part; returns its duration [s]."""
        real = time.monotonic() - self._began
        self._done_real += real
        self._done_expected += self._expected.pop(self._part)
        self._clear()
        print(f"  {self._part:<22} {text}  ({real:.0f} s)", file=self._out, flush=True)
        return real

    def update(self, fraction: float, text: str) -> None:
        """Show where the part stands, `fraction` in [0, 1]."""
        now = time.monotonic()
        if not self._live and now - self._printed < PLAIN_EVERY:
            return
        self._printed = now
        line = f"  {self._part:<22} {100 * min(1.0, fraction):3.0f} %  {text}  {self._left(fraction)}"
        if self._live:
            self._clear()
            print(line[:150], end="", file=self._out, flush=True)
        else:
            print(line, file=self._out, flush=True)

    def _left(self, fraction: float) -> str:
        scale = self._done_real / self._done_expected if self._done_expected > 0 else 1.0
        later = sum(seconds for part, seconds in self._expected.items() if part != self._part)
        left = scale * (later + (1 - min(1.0, fraction)) * self._expected[self._part])
        return f"about {max(1, round(left / 60))} min left"

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[2K", end="", file=self._out)
