"""When a node that has exited is started again: exponential back-off, and when to give up. Pure Python."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

# What `run_node` and command lines return for parameters they refuse; starting again would change nothing.
EXIT_USAGE = 2


class Fate(enum.Enum):
    """What becomes of a node that has exited."""

    RESPAWN = "respawn"
    FINISHED = "finished"
    GIVEN_UP = "given up"
    REFUSED = "refused"


@dataclass(frozen=True)
class RespawnLimits:
    """Bounds of the back-off [s] and of failures in a row."""

    longest_delay: float = 30.0
    healthy_after: float = 60.0
    quick_failures: int = 8


@dataclass
class RespawnPolicy:
    """The history of one node's exits."""

    respawn: bool
    first_delay: float = 1.0
    limits: RespawnLimits = field(default_factory=RespawnLimits)
    failures: int = 0
    exits: int = 0

    def on_exit(self, code: int, alive: float) -> tuple[Fate, float]:
        """What to do after an exit with `code` (negative: the signal) after `alive` seconds; the delay [s].

        The delay doubles with each failure in a row; a node that was alive for `healthy_after` starts anew.
        REFUSED, a refusal of its parameters at the first start, is for the user to set right, whichever the
        node; later the same exit is a failure, such as a damaged checkpoint, that the others may survive.
        """
        self.exits += 1
        if code == 0:
            return Fate.FINISHED, 0.0
        if code == EXIT_USAGE and self.exits == 1:
            return Fate.REFUSED, 0.0
        if alive >= self.limits.healthy_after:
            self.failures = 0
        self.failures += 1
        if not self.respawn or self.failures >= self.limits.quick_failures:
            return Fate.GIVEN_UP, 0.0
        return Fate.RESPAWN, min(self.first_delay * 2.0 ** (self.failures - 1), self.limits.longest_delay)
