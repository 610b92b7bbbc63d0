"""Makes one movement at a time, through the safety core like everything else. Plain Python."""

from __future__ import annotations

from hand_driver.device import Reading
from hand_driver.movement import Moment, Movement, Run
from hand_driver.safety import Refusal
from hand_driver.safety_core import Safety, Wanted
from hand_driver.safety_lease import Priority


class Mover:
    """A movement holds the hand as a human does, until it ends, fails, or a fault or somebody's decision ends it."""

    def __init__(self, safety: Safety) -> None:
        self._safety = safety
        self._run: Run | None = None

    @property
    def holder(self) -> str:
        """Of the movement that is being made; empty when there is none."""
        return self._run.movement.holder if self._run is not None else ""

    def begin(self, movement: Movement, now: float) -> Run:
        """Make it, in place of the one before. Raises Refusal where the hand is not to move, or somebody has it."""
        if self._safety.blocked:
            raise Refusal(self._safety.why_not())
        self._safety.lease.acquire(movement.holder, Priority.HUMAN, now)
        self._safety.wake()
        if self._run is not None:
            self._run.over, self._run.failure = True, "another movement took its place"
        self._run = Run(movement)
        return self._run

    def stop(self, run: Run, reason: str) -> None:
        """End a movement before its end, if it is not over yet: from now on the targets brake."""
        if run is self._run:
            self.end(reason)

    def end(self, failure: str = "") -> None:
        """End what is being made; without a failure, because it has come to its end."""
        if self._run is not None:
            self._run.over, self._run.failure = True, failure
            holder, self._run = self._run.movement.holder, None
            self._safety.lease.release(holder)

    def wanted(self, now: float, robot_time: float, reading: Reading) -> Wanted | None:
        """What the movement asks for in this period."""
        if self._run is None:
            return None
        movement, holder = self._run.movement, self._safety.lease.current(now)
        if self._safety.blocked or holder not in ("", movement.holder):
            self.end(self._safety.why_not() or f"{holder!r} has taken the hand")
            return None
        self._safety.lease.acquire(movement.holder, Priority.HUMAN, now)
        self._safety.wake()
        if not self._safety.may_move:
            return None  # it waits until the hand is taken up where it is
        try:
            targets = movement.targets(Moment(robot_time, self._safety.command, reading))
        except Refusal as error:
            self.end(str(error))
            return None
        if targets is None:
            self.end()
            return None
        return Wanted(targets, movement.holder, movement.slow)
