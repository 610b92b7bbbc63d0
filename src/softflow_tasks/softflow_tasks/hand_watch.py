"""Whether the hand may be used, by what it says of itself; whoever learns from it waits until it may. Plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INACTIVE, HOLD, ACTIVE, ESTOP, RELAX = range(5)
"""HandHealth.mode. A relaxed hand without a fault only waits: it follows the next chunk."""
BLOCKING = {INACTIVE: "inactive", HOLD: "hold", ESTOP: "estop"}
REMEDIES = {
    "inactive": "it waits to be activated",
    "hold": "set_mode lifts it",
    "estop": "reset_estop lifts it",
    "fault": "recover lifts it once its cause is gone",
}
REMINDER = 30.0
"""[s] between two lines about a hand that stays down."""


def why_not(mode: int, reason: str, faults: Sequence[str]) -> str:
    """Why nothing may be asked of the hand, as an episode's cause: `kind: text`; empty when it is well.

    A fault comes before a mode that is only its consequence; an emergency stop before all: a person lifts it.
    """
    kind = BLOCKING.get(mode, "")
    if faults and kind != "estop":
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return f"fault: {faults[0]}{more}"
    # The driver may have said the kind itself.
    return f"{kind}: {reason.removeprefix(f'{kind}: ') or 'no reason given'}" if kind else ""


@dataclass
class HandWatch:
    """Since when the hand is down, and why. Times are [s] on a monotonic clock."""

    why: str = ""
    """As `why_not`; empty while the hand is well, and before it has said anything."""
    heard: bool = False
    """Whether it has said anything: until then nobody knows whether it may be used."""
    stops: int = 0
    """How often it went down."""
    _since: float = 0.0
    _said: float = 0.0

    def look(self, why: str, now: float) -> bool:
        """Take in what the hand says; whether it has just gone down."""
        self.heard = True
        went_down = bool(why) and not self.why
        if went_down:
            self.stops += 1
            self._since = self._said = now
        self.why = why
        return went_down

    def reminder(self, now: float) -> str:
        """A line for the log, from time to time while the hand stays down; else empty."""
        if not self.why or now - self._said < REMINDER:
            return ""
        self._said = now
        return f"no episode for {now - self._since:.0f} s: {self.text()}"

    def text(self) -> str:
        """What keeps episodes from being played, and what would lift it; empty while nothing does."""
        if not self.why:
            return ""
        return f"the hand is down: {self.why}; {REMEDIES[self.why.partition(':')[0]]}"


@dataclass
class Retry:
    """Growing pauses [s] between attempts at what failed."""

    first: float
    longest: float
    pause: float = 0.0
    due: float = 0.0

    def failed(self, now: float) -> None:
        """Not again before `due`."""
        self.pause = min(self.longest, 2 * self.pause or self.first)
        self.due = now + self.pause

    def succeeded(self) -> None:
        """The next failure is a first one."""
        self.pause = self.due = 0.0
