"""Which signal nodes that are being stopped get, and when. Pure Python."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

HURRIED_GRACE = 2.0


class StopPlan:
    """SIGINT at once, SIGTERM after two thirds of the grace time [s], SIGKILL after all of it.

    A second request to stop brings SIGTERM at once and SIGKILL after `HURRIED_GRACE`, a third one SIGKILL.
    """

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        now = clock()
        self._pending = [
            (now, signal.SIGINT),
            (now + grace * 2 / 3, signal.SIGTERM),
            (now + grace, signal.SIGKILL),
        ]
        self._hurried = False

    def due(self, requests: int) -> signal.Signals | None:
        """The next signal, if its time has come after so many requests to stop."""
        now = self._clock()
        if requests > 1 and not self._hurried:
            self._hurried = True
            extra = {signal.SIGKILL: HURRIED_GRACE}
            self._pending = [(min(at, now + extra.get(n, 0.0)), n) for at, n in self._pending]
        if requests > 2:
            self._pending = [(now, number) for _, number in self._pending]
        if self._pending and now >= self._pending[0][0]:
            return self._pending.pop(0)[1]
        return None
