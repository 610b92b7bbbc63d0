"""SIGINT and SIGTERM as a flag. Plain Python."""

from __future__ import annotations

import signal
from types import FrameType


class StopFlag:
    """Set by the first signal. A plain bool, not an Event: a handler must not wait for a lock."""

    def __init__(self) -> None:
        self._set = False

    @classmethod
    def install(cls) -> StopFlag:
        """Take over SIGINT and SIGTERM of this process (main thread only)."""
        flag = cls()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, flag._on_signal)
        return flag

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._set = True

    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self._set
