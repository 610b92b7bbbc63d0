"""Who may move the hand: one holder at a time, a human before a policy, and nobody for longer than it is heard of."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hand_driver.safety import Refusal


class Priority(enum.IntEnum):
    """A higher one takes the hand from a lower one."""

    POLICY = 0
    HUMAN = 1


@dataclass
class Lease:
    """The right to move the hand. Times are [s] on a monotonic clock."""

    timeout: float
    holder: str = ""
    priority: Priority = Priority.POLICY
    heard: float = 0.0
    taken: int = 0
    """How often the hand changed over to another holder."""

    def current(self, now: float) -> str:
        """Who holds it, empty when nobody does."""
        if self.holder and now - self.heard > self.timeout:
            self.holder = ""
        return self.holder

    def acquire(self, holder: str, priority: Priority, now: float) -> bool:
        """Take or renew it; whether it changed over.

        Raises:
            Refusal: another one of the same or a higher priority holds it.
        """
        if not holder:
            raise Refusal("source is empty, must say who moves the hand")
        current = self.current(now)
        if current and current != holder and priority <= self.priority:
            left = self.timeout - (now - self.heard)
            raise Refusal(
                f"source {holder!r}: the hand is held by {current!r} ({self.priority.name.lower()}), "
                f"for {left:.2f} s after it falls silent"
            )
        changed = current != holder
        self.taken += int(changed)
        self.holder, self.priority, self.heard = holder, priority, now
        return changed

    def renew(self, now: float) -> None:
        """The holder is being heard, for example because what it asked for is being played."""
        if self.holder:
            self.heard = now

    def release(self, holder: str) -> bool:
        """Give it back; False when `holder` does not hold it."""
        if self.holder != holder or not holder:
            return False
        self.holder = ""
        return True
