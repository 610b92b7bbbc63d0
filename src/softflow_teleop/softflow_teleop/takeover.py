"""When the hand is the human's: from taking it, or from the first target on, until it is given back or falls silent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Takeover:
    """Whether a human has the hand. Times are [s] on a monotonic clock."""

    silence: float
    """[s] without a word of the device, then the hand is given back: a dead device or cable holds nothing."""
    by_targets: bool
    """Targets take the hand; otherwise only `take` does."""
    holding: bool = False
    taken: int = 0
    """How often the hand was taken."""
    _heard: float = float("-inf")
    _dismissed: bool = False
    """Given back by command: targets that go on coming do not take it again."""

    def take(self, now: float) -> None:
        """The human wants the hand now."""
        self.taken += not self.holding
        self.holding, self._dismissed, self._heard = True, False, now

    def give(self) -> None:
        """The human lets go."""
        self.holding, self._dismissed = False, True

    def heard(self, now: float) -> bool:
        """A target came; whether it is to be followed."""
        if now - self._heard > self.silence:
            self._dismissed = False
        self._heard = now
        if not self.holding and self.by_targets and not self._dismissed:
            self.take(now)
        return self.holding

    def look(self, now: float) -> bool:
        """Whether the hand is the human's."""
        if self.holding and now - self._heard > self.silence:
            self.holding = False
        return self.holding
