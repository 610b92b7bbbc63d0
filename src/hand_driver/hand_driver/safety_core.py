"""The safety core: between what somebody wants of the hand and what it is told, once each control period.

It has no clock, no bus and no ROS: times come in as [s] on a monotonic clock, readings and wishes as values.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hand_driver.device import FloatArray, Reading
from hand_driver.hand_spec import HandSpec
from hand_driver.safety import Refusal, check_finite
from hand_driver.safety_lease import Lease
from hand_driver.safety_monitor import Fault, Health, Monitor
from hand_driver.safety_motion import MotionLimiter

REJOIN = 0.02
"""[rad] within which targets and pose are at one again after the hand was soft."""


class Mode(enum.Enum):
    """What the hand does. Only in ACTIVE does it follow what is wanted."""

    ACTIVE = "active"
    HOLD = "hold"
    RELAX = "relax"
    ESTOP = "estop"


@dataclass(frozen=True)
class Wanted:
    """Joint targets (J,) that somebody asks for."""

    targets: FloatArray
    holder: str
    slow: bool = False
    """Whether it is followed at the safe speed all the way, not only until it is reached."""


@dataclass(frozen=True)
class Decision:
    """What the hand is to be told."""

    target: FloatArray
    """[rad, m] (J,)"""
    stiffness: FloatArray
    """(J,) share of the current limits"""
    mode: Mode
    faults: tuple[str, ...]
    """Texts of the faults in force."""
    refused: str
    """Why what was wanted was not followed; empty when it was, or when nothing was wanted."""
    clamped: int
    """Values that differ from what was wanted and followed."""
    events: tuple[str, ...]
    """What changed since the step before."""


class Safety:
    """Limits, monitors, lease, emergency stop and faults of one hand.

    Faults stay until `recover`, an emergency stop until `reset_estop`; both want a reason. Whatever happens, targets
    move by no more than the speed limit in a period.
    """

    def __init__(self, spec: HandSpec) -> None:
        self.spec = spec
        self.lease = Lease(spec.safety.lease_timeout)
        self.counters: Counter[str] = Counter()
        self.faults: dict[str, Fault] = {}
        self.estop_reason = ""
        self.hold_reason = "not started"
        self.now = 0.0
        self._limiter, self._monitor = MotionLimiter(spec), Monitor(spec)
        self._health = Health((), np.ones(len(spec.joints)))
        self._ones = np.ones(len(spec.joints))
        self._last_wanted: Wanted | None = None
        self._approaching = self._rejoining = False
        self._served_at: float | None = None
        self._events: list[str] = []

    @property
    def command(self) -> FloatArray:
        """Joint targets (J,) in force."""
        return self._limiter.command

    @property
    def derating(self) -> FloatArray:
        """Share (J,) of speed and current that temperature and current leave to each joint."""
        return self._health.share

    @property
    def may_move(self) -> bool:
        """Whether what is wanted would be followed now."""
        return not (self.estop_reason or self.faults or self.hold_reason or self._rejoining)

    def why_not(self) -> str:
        """The foremost reason why the hand does not follow; empty when it does."""
        if self.estop_reason:
            return f"estop: {self.estop_reason}"
        if self.faults:
            return f"fault: {next(iter(self.faults.values())).text}"
        if self.hold_reason:
            return f"hold: {self.hold_reason}"
        return "the hand is being taken up where it is" if self._rejoining else ""

    def start(self, pose: FloatArray, now: float) -> None:
        """Begin at rest where the hand is, (J,). Raises Refusal for a pose that is not finite."""
        check_finite("position", pose)
        self._limiter.start(pose)
        self._interrupt()
        self.now = self._served_at = now if math.isfinite(now) else 0.0

    def hold(self, reason: str) -> None:
        """Stop following until `follow`."""
        self.hold_reason = reason or "no reason given"

    def follow(self) -> None:
        """Follow what is wanted, as far as faults and an emergency stop allow."""
        self.hold_reason = ""
        self._served_at = self.now

    def wake(self) -> None:
        """Somebody is about to ask for something: a hand that was relaxed for lack of it is taken up again."""
        self._served_at = self.now

    def estop(self, reason: str) -> None:
        """Stop now and for good; only `reset_estop` lifts it. The first reason stays."""
        if not self.estop_reason:
            self.estop_reason = reason or "no reason given"
            self.counters["estops"] += 1
            self._events.append(f"emergency stop: {self.estop_reason}")

    def reset_estop(self, reason: str) -> None:
        """Lift the emergency stop. Raises Refusal without a reason, or where there is nothing to lift."""
        if not reason.strip():
            raise Refusal("reason is empty, must say why it is safe to go on")
        if not self.estop_reason:
            raise Refusal("there is no emergency stop to lift")
        self.estop_reason = ""
        self._served_at = self.now
        self._events.append(f"emergency stop lifted: {reason}")

    @property
    def blocked(self) -> bool:
        """Whether only somebody's decision lets the hand move again."""
        return bool(self.estop_reason or self.faults or self.hold_reason)

    def rebase(self, joints: NDArray[np.bool_], pose: FloatArray) -> None:
        """Of these joints (J,), which nothing holds, the targets are where they are (J,)."""
        check_finite("position", pose)
        self._limiter.start(np.where(joints, pose, self.command))

    def check_recovery(self, reason: str) -> None:
        """Raises Refusal without a reason, or without a fault."""
        if not reason.strip():
            raise Refusal("reason is empty, must say what was done about the fault")
        if not self.faults:
            raise Refusal("there is no fault to recover from")

    def recover(self, reason: str, reading: Reading) -> None:
        """Leave all faults behind, once their causes are gone from a new reading.

        Raises:
            Refusal: no reason, no fault, or a cause that lasts.
        """
        self.check_recovery(reason)
        self._monitor.forget()
        self._health = self._monitor.look(self.now, reading, self.command)
        if self._health.causes:
            raise Refusal(f"the cause lasts: {self._health.causes[0].text}")
        self.faults.clear()
        self._rejoining = True
        self._served_at = self.now
        self._events.append(f"recovered: {reason}")

    def wrote(self, ok: bool) -> None:
        """Whether the targets of the last step could be sent; if not, those before are still in force."""
        self._monitor.wrote(ok)
        if not ok:
            self.counters["failed_writes"] += 1
            self._limiter.undo()

    def step(self, now: float, reading: Reading | None, wanted: Wanted | None) -> Decision:
        """Decide what the hand is told in this period.

        Args:
            now: [s], monotonic; a clock that goes back or is not a number counts as standing still.
            reading: the newest reading, None when the bus could not be read.
            wanted: what the holder of the lease asks for, None when there is nothing.
        """
        self._tick(now)
        self._health = self._monitor.look(self.now, reading, self.command)
        self.counters["failed_reads"] += int(reading is None)
        for cause in self._health.causes:
            if cause.key not in self.faults:
                self.counters["faults"] += 1
                self._events.append(f"fault: {cause.text}")
            self.faults[cause.key] = cause
        refused, before = "", self.command
        if wanted is not None:
            refused = self.why_not() or self._admit(wanted)
        followed = wanted is not None and not refused
        mode = self._mode(followed)
        target, stiffness = self._move(mode, reading, wanted if followed else None)
        if refused:
            self.counters["refused_targets"] += 1
        if not followed:
            self._interrupt()
        clamped = int(np.count_nonzero(target != wanted.targets)) if followed and wanted is not None else 0
        assert np.isfinite(target).all() and target.shape == before.shape
        events, self._events = tuple(self._events), []
        return Decision(
            target, stiffness, mode, tuple(f.text for f in self.faults.values()), refused, clamped, events
        )

    def _tick(self, now: float) -> None:
        if math.isfinite(now) and now >= self.now:
            self.now = now
        else:
            self.counters["clock_steps"] += 1
            self._events.append(f"the clock says {now} s after {self.now} s")

    def _mode(self, followed: bool) -> Mode:
        if self.estop_reason:
            return Mode.ESTOP
        if any(f.relax for f in self.faults.values()):
            return Mode.RELAX
        if self.faults or self.hold_reason:
            return Mode.HOLD
        if followed:
            return Mode.ACTIVE
        since = self.now - (self._served_at if self._served_at is not None else self.now)
        return Mode.RELAX if since > self.spec.safety.starve_relax else Mode.HOLD

    def _move(
        self, mode: Mode, reading: Reading | None, wanted: Wanted | None
    ) -> tuple[FloatArray, FloatArray]:
        """Targets and stiffness (J,)."""
        s, share = self.spec.safety, self._health.share
        base = {Mode.RELAX: s.relax_stiffness, Mode.ESTOP: s.estop_stiffness}.get(mode, 1.0)
        if base < 1.0:
            self._rejoining = True
        elif self._rejoining and not (self.estop_reason or self.faults):
            return self._rejoin(reading), s.relax_stiffness * share
        if wanted is not None:
            self._last_wanted, self._served_at = wanted, self.now
            speed = share * s.takeover_share if self._approaching or wanted.slow else share
            target = self._limiter.step(wanted.targets, speed)
            if np.abs(wanted.targets - target).max() <= s.takeover_jump:
                self._approaching = False
            return target, base * share
        if mode is Mode.ESTOP or self.faults:
            return self._limiter.stop(), base * share
        return self._limiter.step(self.command, share), base * share

    def _rejoin(self, reading: Reading | None) -> FloatArray:
        """The targets go to where the hand was left or pushed to, before it becomes stiff again."""
        share = self._ones * self.spec.safety.takeover_share
        if reading is None or not (reading.valid.all() and np.isfinite(reading.position).all()):
            return self._limiter.step(self.command, share)  # Brakes: nobody knows where to.
        goal = np.clip(reading.position, self.spec.values("lower"), self.spec.values("upper"))
        target = self._limiter.step(goal, share)
        if np.abs(goal - target).max() <= REJOIN:
            self._rejoining = False
            self._served_at = self.now
        return target

    def _interrupt(self) -> None:
        """Whatever is followed next is a new source: no jump from here to there."""
        self._last_wanted, self._approaching = None, True

    def _admit(self, wanted: Wanted) -> str:
        """Why not to follow; empty when there is no reason, and then the lease is renewed."""
        s, targets, names = self.spec.safety, wanted.targets, self.spec.joint_names
        if wanted.holder != self.lease.current(self.now):
            return f"source {wanted.holder!r} does not hold the hand, {self.lease.holder or 'nobody'!r} does"
        if targets.shape != self.command.shape:
            return f"targets has shape {targets.shape}, must be {self.command.shape}"
        try:
            check_finite("targets", targets)
        except Refusal as error:
            return str(error)
        last = self._last_wanted
        new = last is None or last.holder != wanted.holder
        far = np.abs(targets - self.command)
        jump = far if last is None or new else np.minimum(far, np.abs(targets - last.targets))
        if jump.max() > s.max_jump:
            index = int(np.argmax(jump))
            return (
                f"targets[{index}] ({names[index]}) is {targets[index]:.3f}, {jump[index]:.3f} from where it was; "
                f"allowed: {s.max_jump} (in rad, in the order of the hand's joints?)"
            )
        if new:
            self._approaching = bool(far.max() > s.takeover_jump)
        self.lease.renew(self.now)
        return ""
