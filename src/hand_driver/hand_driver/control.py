"""The driver without ROS: chunk playback, safety core and a hand, one control step at a time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hand_driver.actions import ActionMap
from hand_driver.calibration import Calibration
from hand_driver.device import FloatArray, Hand, Reading
from hand_driver.hand_spec import HandSpec
from hand_driver.histogram import Histogram
from hand_driver.movement import OWN, TRAJECTORY, Follow, Home, Movement, Run
from hand_driver.mover import Mover
from hand_driver.playback import Chunk, ChunkPlayback, Playing
from hand_driver.safety import Refusal, clamp_action
from hand_driver.safety_core import Decision, Mode, Safety, Wanted
from hand_driver.safety_lease import Priority
from hand_driver.safety_reading import Plausibility
from hand_driver.step import Outcome, Step
from hand_driver.trajectory import Trajectory

NANOSECONDS = 1_000_000_000
TELEOP = "teleop"
"""Source of a person's chunks, which take the hand from a policy; the recorder knows them by it, too."""
STILL = 0.3
"""[s] that the hand is held before its pose is compared with the calibration."""


def check_holder(field: str, holder: str) -> None:
    """Whether somebody outside of the driver may call himself so. Raises Refusal."""
    if not holder.strip():
        raise Refusal(f"{field} is empty, must say who moves the hand")
    if holder in (OWN, TRAJECTORY):
        raise Refusal(f"{field} is {holder!r}, which is the driver's own")


def priority_of(source: str) -> Priority:
    """Of the source of a chunk."""
    return Priority.HUMAN if source == TELEOP else Priority.POLICY


class Driver:
    """One hand under control. Not thread safe; times are [s] on a monotonic clock, but for `robot_ns`."""

    def __init__(
        self,
        hand: Hand,
        spec: HandSpec,
        actions: ActionMap,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: what durations are measured with."""
        self.hand, self.spec, self.actions, self._clock = hand, spec, actions, clock
        names = hand.description.action_names
        self.safety = Safety(spec)
        self.mover = Mover(self.safety)
        self.plausibility = Plausibility(spec)
        self.playback = ChunkPlayback(len(names), spec.period, max_lead=spec.safety.max_expiry)
        self.counters: Counter[str] = Counter()
        self.read_time, self.write_time = Histogram(), Histogram()
        """Of the bus; in simulation of the back end's call."""
        self.action_delay = Histogram()
        """From the arrival of a chunk until its first action was sent."""
        self._arrived: tuple[int, float] | None = None
        self.robot_ns = 0
        nothing, full = np.zeros(0), np.ones(len(spec.joints))
        self.at = Step("", 0, 0, 0, actions.rest_action(), nothing, starved=False, stiffness=full)
        self.reading: Reading
        self.has_read = False
        self.calibration: Calibration | None = None
        self.last_error = ""
        """Of the bus."""
        self._stream: tuple[Wanted, float] | None = None
        self._still = 0
        """Control steps since the targets last changed."""
        self._preempted: Playing | None = None
        self._read_ok = True
        self._mute = False
        self._limp = np.zeros(len(spec.joints), dtype=np.bool_)
        """Joints that were taken up where they are, and whose targets are not there yet."""

    @property
    def simulated(self) -> bool:
        """Whether time passes only in control steps, so that nothing need be done before an episode."""
        return self.hand.description.backend == "sim"

    @property
    def real(self) -> bool:
        """Whether there are motors, which go on in real time whatever this process does."""
        return self.hand.description.backend in ("dynamixel", "orca")

    @property
    def homing(self) -> bool:
        """Whether the hand is on its way to the neutral pose, or on another one of the driver's own."""
        return self.mover.holder == OWN

    @property
    def moving(self) -> bool:
        """Whether joint targets are followed that are no chunk's."""
        return self.mover.holder != "" or self._stream is not None

    @property
    def robot_time(self) -> float:
        """[s] robot clock"""
        return self.robot_ns / NANOSECONDS

    def start(self, now: float) -> None:
        """Connect, and begin at rest at the pose in which the hand is. Raises OSError."""
        self.hand.connect()
        self.reading, self.has_read = self._read_anew(), True
        unknown = self.plausibility.unknown(self.reading)
        if unknown:
            raise OSError(f"{self.spec.name}: the pose at the start is unknown: {unknown}")
        self._place(self.reading.position, now)
        self._read_ok, self._mute, self._still = True, False, 0
        self._limp[:] = False
        self.safety.follow()

    def verify(self) -> None:
        """Whether the pose is known well enough to begin to move. Raises Refusal."""
        unknown = (
            "the bus could not be read" if not self._read_ok else self.plausibility.unknown(self.reading)
        )
        if unknown:
            raise Refusal(f"{self.spec.name}: the pose is unknown: {unknown}")
        for fault in self.safety.faults.values():
            raise Refusal(f"fault: {fault.text}; recover_hand lifts it")
        if self.calibration is None:
            return
        if not self.stands:
            raise Refusal(f"the hand was not held still for {STILL} s; its pose is compared after that")
        self.calibration.check(self.safety.command, self.reading.position, self.spec)

    @property
    def stands(self) -> bool:
        """Whether the targets have not changed for long enough for the joints to be where they are told to be."""
        return self._still * self.spec.period >= STILL

    def stand(self, reason: str) -> Playing | None:
        """Hold where it is, and let go of everything that moves it; returns the chunk that this cuts off."""
        self.mover.end(reason)
        self._stream = None
        self.safety.lease.release(self.safety.lease.holder)
        self.safety.hold(reason)
        return self._take_preempted() or self.playback.flush()

    def _place(self, pose: FloatArray, now: float) -> None:
        self.safety.start(pose, now)
        self.at = replace(self.at, command=np.array(pose))

    def begin(self, episode_id: str, seed: int, now: float) -> Playing | None:
        """Start an episode; returns the chunk that it cuts off.

        A simulated scene is put into its start state. A real hand stays where it is; `home` moves it. Raises OSError.
        """
        cut = self.playback.flush()
        self.mover.end("a new episode began")
        self._stream = None
        self.safety.lease.release(self.safety.lease.holder)
        targets = self.hand.reset(seed)
        if targets is not None:
            self._place(targets, now)
            self.reading = self._read_anew()
        self.robot_ns += round(self.spec.period * NANOSECONDS)
        rest = self.actions.rest_action()
        self.at = replace(
            Step(episode_id, seed, 0, self.robot_ns, rest, self.at.command, starved=False),
            stiffness=self.at.stiffness,
            mode=self.at.mode,
        )
        self.playback.begin(episode_id)
        return cut

    def home(self, now: float) -> Run:
        """Go to the neutral pose at the safe speed; chunks are refused until it is reached. Raises Refusal."""
        return self.move(Home(self.spec), now)

    def move(self, movement: Movement, now: float) -> Run:
        """Make a movement, in place of the one before. Raises Refusal."""
        run = self.mover.begin(movement, now)
        self._stream = None
        return run

    def follow(self, trajectory: Trajectory, start: float, now: float) -> Run:
        """Follow a trajectory that begins at `start` [s] on the robot clock; 0: now. Raises Refusal."""
        begin, ahead = start or self.robot_time, self.spec.safety.max_expiry
        if begin - self.robot_time > ahead:
            raise Refusal(
                f"header.stamp is {start:.3f} s, {begin - self.robot_time:.3f} s ahead of the robot clock; "
                f"allowed: {ahead} s, or 0 for now"
            )
        if start and begin + trajectory.end < self.robot_time:
            raise Refusal(
                f"header.stamp is {start:.3f} s: it ended before {self.robot_time:.3f} s on the robot clock"
            )
        return self.move(Follow(trajectory, begin, self.spec.period), now)

    def offer(self, chunk: Chunk, now: float, arrived: float | None = None) -> bool:
        """Queue a chunk; False if it is a repetition or came too late to matter. Raises Refusal.

        `arrived`: when it came in, by the clock, if that was not just now.
        """
        if self.playback.superseded(chunk):
            return False
        if self.safety.blocked:
            raise Refusal(f"chunk_id {chunk.chunk_id}: {self.safety.why_not()}")
        if self.homing:
            raise Refusal(
                f"chunk_id {chunk.chunk_id}: the driver moves the hand, on its way to the neutral pose say"
            )
        s = self.spec.safety
        if chunk.obs_step > self.at.step and chunk.episode_id == self.at.episode_id:
            raise Refusal(
                f"obs_step is {chunk.obs_step}, the episode is at step {self.at.step}: future-dated"
            )
        largest = float(np.abs(chunk.actions).max()) if chunk.actions.size else 0.0
        if largest > s.max_action and math.isfinite(largest):
            raise Refusal(
                f"actions: the largest value is {largest:.4g}, allowed: {s.max_action} (other units?)"
            )
        self.playback.check(chunk, self.robot_time)
        holder = self.safety.lease.current(now)
        if holder and holder != chunk.source:
            self.safety.lease.acquire(chunk.source, priority_of(chunk.source), now)
            self._preempted, self._stream = self.playback.flush() or self._preempted, None
        accepted = self.playback.offer(chunk, self.robot_time)
        if accepted:
            self.safety.lease.acquire(chunk.source, priority_of(chunk.source), now)
            self.safety.wake()
            self._arrived = chunk.chunk_id, self._clock() if arrived is None else arrived
        return accepted

    def stream(
        self, holder: str, targets: FloatArray, now: float, priority: Priority = Priority.HUMAN
    ) -> None:
        """Follow joint targets (J,) of a person or a tool until they stop coming. Raises Refusal."""
        if targets.shape != self.at.command.shape:
            raise Refusal(f"targets has shape {targets.shape}, must be {self.at.command.shape}")
        if not np.isfinite(targets).all():
            raise Refusal(f"targets holds {targets[~np.isfinite(targets)][0]}, must be finite")
        self.safety.lease.acquire(holder, priority, now)
        self.safety.wake()
        self._stream = Wanted(np.array(targets, dtype=np.float64), holder), now

    def give_back(self, holder: str) -> bool:
        """`holder` lets go of the hand; False when it did not hold it."""
        if self._stream is not None and self._stream[0].holder == holder:
            self._stream = None
        return self.safety.lease.release(holder)

    def step(self, now: float) -> Outcome:
        """Make one control step. Raises nothing that a hand can cause."""
        action, chosen = self.actions.held_action(self.at.applied), None
        wanted = self._other_wanted(now)
        stopped = (
            self._take_preempted() if wanted is None else self._take_preempted() or self.playback.flush()
        )
        if wanted is None:
            chosen = self._chunk_action(now)
        if chosen is not None:
            clamped = clamp_action(chosen)
            targets = self.actions.action_to_joints(clamped.value, self.at.command)
            wanted = Wanted(targets, self.playback.source)
        before = self.safety.command
        decision = self.safety.step(now, self.reading if self._read_ok else None, wanted)
        self._still = 0 if (decision.target != before).any() else self._still + 1
        if decision.refused and wanted is not None and wanted.holder == self.mover.holder:
            self.mover.end(decision.refused)
        sent = self._command(decision)
        if chosen is not None and sent is None and not decision.refused:
            # What did not reach the hand was not followed: a learner would take it for what the policy did.
            decision = replace(decision, mode=Mode.HOLD, refused=self.last_error)
        if self.safety.blocked or decision.refused:
            stopped, chosen = stopped or self.playback.flush(), None
        if chosen is not None:
            action = clamped.value
            self.counters["clamped_values"] += clamped.changed + decision.clamped
        if chosen is not None and self._arrived is not None and self._arrived[0] == self.playback.chunk_id:
            self.action_delay.add(self._clock() - self._arrived[1])
            self._arrived = None
        self.robot_ns += round(self.hand.wait_period() * NANOSECONDS)
        done = self.playback.applied(action) if chosen is not None else None
        starved = decision.mode is not Mode.ACTIVE
        at = self.at
        source = wanted.holder if wanted is not None and decision.mode is Mode.ACTIVE else ""
        self.at = Step(
            at.episode_id,
            at.seed,
            at.step + 1,
            self.robot_ns,
            action,
            at.command if sent is None else sent,
            starved,
            source,
            decision.stiffness,
            decision.mode,
        )
        self._count(starved)
        self._read()
        return Outcome(decision, done, stopped)

    def _chunk_action(self, now: float) -> FloatArray | None:
        """The next action (A,) of the chunk that is played, if the hand would follow it."""
        if not self.safety.may_move:
            return None
        action = self.playback.next_action(self.at.step, self.robot_time)
        if action is not None and not self.safety.lease.current(now):
            # Nobody has taken the hand while this process had no time to play.
            self.safety.lease.acquire(self.playback.source, priority_of(self.playback.source), now)
        return action

    def _other_wanted(self, now: float) -> Wanted | None:
        """Joint targets that come before any chunk: of a person, or of the way to the neutral pose."""
        if self.mover.holder:
            return self.mover.wanted(now, self.robot_time, self.reading)
        holder = self.safety.lease.current(now)
        if self._stream is None:
            return None
        wanted, at = self._stream
        if now - at > self.spec.safety.lease_timeout or holder != wanted.holder:
            self._stream = None
            return None
        return wanted

    def _take_preempted(self) -> Playing | None:
        preempted, self._preempted = self._preempted, None
        return preempted

    def _command(self, decision: Decision) -> FloatArray | None:
        """Targets (J,) as they were sent, None when they were not."""
        began = self._clock()
        try:
            if self._mute:
                # No target is sent to a hand that did not come back; what its motors may draw is.
                relaxed = np.minimum(decision.stiffness, self.spec.safety.relax_stiffness)
                self.hand.set_stiffness(relaxed)
                return None
            sent = self.hand.command(decision.target, decision.stiffness)
        except OSError as error:
            if not self._mute:
                self.safety.wrote(ok=False)
            self._note("write", error)
            return None
        finally:
            self.write_time.add(self._clock() - began)
        self.safety.wrote(ok=True)
        return sent

    def _read(self) -> None:
        began = self._clock()
        try:
            self.reading, self._read_ok = self.plausibility.check(self.hand.read(), self.robot_time), True
        except OSError as error:
            self.reading = replace(self.reading, valid=np.zeros_like(self.reading.valid))
            self._read_ok = False
            self._note("read", error)
        self.read_time.add(self._clock() - began)

    def _read_anew(self) -> Reading:
        """A reading that does not depend on those before, and that a second one confirms. Raises OSError."""
        self.plausibility.forget()
        self.plausibility.check(self.hand.read(), self.robot_time)
        return self.plausibility.check(self.hand.read(), self.robot_time)

    def _note(self, what: str, error: OSError) -> None:
        self.counters[f"{what}_errors"] += 1
        self.last_error = f"{what}: {error}"

    def _count(self, starved: bool) -> None:
        self.counters["control_steps"] += 1
        self.counters["expired_chunks"] = self.playback.expired
        self.counters["starved_steps"] += int(starved)
        self.counters["misread_positions"] = self.plausibility.misread
        self.counters.update({k: v - self.counters[k] for k, v in self.safety.counters.items()})

    def recover(self, reason: str) -> None:
        """Bring the hand back after a fault: the bus first, then the safety core. Raises Refusal."""
        self.safety.check_recovery(reason)
        # From the first motor that is taken up where it is, until targets are there too, none is sent.
        self._mute = True
        try:
            self._limp = limp = self._limp | self.hand.recover()
            self.reading, self._read_ok = self._read_anew(), True
            unknown = self.plausibility.unknown(self.reading, whole=bool(limp.any()))
            if unknown:
                raise OSError(unknown)
            # A joint that had lost its torque is held where it is now; the others keep what they were told.
            self.safety.rebase(limp, self.reading.position)
            self._mute, self._limp = False, np.zeros_like(limp)
            stiffness = np.minimum(self.at.stiffness, self.spec.safety.relax_stiffness)
            self.hand.command(self.safety.command, stiffness)
        except OSError as error:
            self._note("recover", error)
            raise Refusal(f"the hand does not come back: {error}") from error
        self.safety.wrote(ok=True)
        self.safety.recover(reason, self.reading)

    def close(self) -> Playing | None:
        """Let go of the hand; returns the chunk that this cuts off."""
        self.mover.end("the driver lets go of the hand")
        cut = self.playback.flush()
        self.hand.disconnect()
        return cut
