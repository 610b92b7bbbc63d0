"""The thread that makes the control steps, and the lock under which whoever else uses the hand does so."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

PATIENCE = 0.002
"""[s] that a loop without a pause between its steps lets somebody go first who waits for the hand."""


class Turn(Protocol):
    """A lock that can be waited on; `threading.Condition` is one."""

    def __enter__(self) -> bool: ...

    def __exit__(self, *error: Any) -> None: ...

    def wait(self, timeout: float) -> bool:
        """Let the lock go until `notify`, or for so long [s]."""

    def notify(self) -> None:
        """End the waiting of the one that waits."""


class ControlLoop:
    """Calls `work` again and again in a thread of its own, at the times that it asks for, always under the lock.

    `work` returns when it wants to be called next, on the clock. It is called earlier when somebody else has had the
    hand, because that may have changed what is due. Times are absolute, so that lateness does not add up.
    """

    def __init__(
        self,
        work: Callable[[], float],
        prepare: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        turn: Turn | None = None,
    ) -> None:
        """`prepare` is called once, in the thread, before the first step."""
        self._work, self._prepare, self._clock = work, prepare, clock
        self._turn: Turn = turn or threading.Condition()
        self.asked_at = 0.0
        """When the callback that runs now, or ran last, asked for the hand."""
        self._asking = 0
        self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="control loop", daemon=True)

    def tend(self) -> None:
        """Begin, when that was not done; raises what `work` raised, which has ended the loop."""
        if self._error is not None:
            raise self._error
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End after the step that is being made; the hand may be used without the lock then."""
        self._stop = True  # before the lock, which a loop without pauses may never let go
        with self._turn:
            self._turn.notify()
        if self._thread.is_alive():
            self._thread.join()

    def exclusive(self, callback: F) -> F:
        """The callback, to be called between two steps. All of them from one other thread."""

        @functools.wraps(callback)
        def between_steps(*arguments: Any, **named: Any) -> Any:
            self._asking += 1
            asked_at = self._clock()
            with self._turn:
                try:
                    self.asked_at = asked_at
                    return callback(*arguments, **named)
                finally:
                    self._asking -= 1
                    self._turn.notify()

        return between_steps  # type: ignore[return-value]

    def _run(self) -> None:
        try:
            self._prepare()
            with self._turn:
                while not self._stop:
                    self._rest(self._work())
        except BaseException as error:
            self._error = error

    def _rest(self, due: float) -> None:
        left = due - self._clock()
        if left <= 0.0 and self._asking:
            # Steps without a pause between them would never let anybody else have the lock.
            left = PATIENCE
        if left > 0.0:
            self._turn.wait(left)
