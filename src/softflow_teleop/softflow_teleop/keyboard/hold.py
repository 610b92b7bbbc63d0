"""Whether the hand that was taken is still the human's: teleop may have given it back meanwhile. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass

PAUSE = 0.4
"""[s] that the keyboard may say nothing. Less than the `silence` (0.5 s) after which teleop gives the hand back: the
first message after that would take it again, and nobody has pressed a key."""


@dataclass
class Hold:
    """What the keyboard itself knows of it. Times are [s] on a monotonic clock."""

    why: str = ""
    """Why nothing may be asked of the hand, as `why_not` of softflow_tasks.hand_watch; empty while it is well."""
    _spoke: float = float("-inf")
    _servers: int = 0

    def asks(self, now: float, servers: int) -> None:
        """The hand is to be taken. `servers`: how many nodes there are to ask; one that died counts for a while."""
        self._spoke, self._servers = now, servers

    def spoke(self, now: float) -> None:
        """A pose was published."""
        self._spoke = now

    def lost(self, now: float, servers: int) -> str:
        """Why a hand that was taken is not the human's any more; empty while it is."""
        if self.why:
            return self.why
        if not servers:
            return "teleop is not there any more"
        if servers > self._servers:
            return "teleop was started anew"
        self._servers = servers
        pause = now - self._spoke
        return f"the keyboard said nothing for {pause:.1f} s" if pause > PAUSE else ""
