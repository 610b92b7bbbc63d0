"""A terminal that gives every key at once, as long as it is in use."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType


class Terminal:
    """Standard input, key by key; a context manager that leaves the terminal as it was."""

    def __init__(self) -> None:
        """Raises OSError when standard input is no terminal."""
        self._input = sys.stdin.fileno()
        if not os.isatty(self._input):
            raise OSError("standard input is not a terminal")

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(self._input)
        tty.setcbreak(self._input)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    def read(self) -> str:
        """What was typed since the last call; empty when nothing was, or the terminal is gone."""
        if not select.select([self._input], [], [], 0.0)[0]:
            return ""
        return os.read(self._input, 64).decode(errors="ignore")
