"""What tests of the driver share: a hand in memory that records what it is told, chunks, and the bounds that hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hand_driver.actions import JointActions
from hand_driver.backends.mock import MockHand, MockWorld
from hand_driver.control import Driver, Outcome
from hand_driver.device import FloatArray
from hand_driver.hand_file import load_hand
from hand_driver.hand_spec import HandSpec
from hand_driver.playback import Chunk
from hand_driver.safety_core import Mode

SPEC = load_hand("mock")
PERIOD = SPEC.period
TINY = 1e-9
NEAR = SPEC.values("neutral") + 0.3
"""[rad] a pose that is reached in less than a second."""


def with_safety(spec: HandSpec = SPEC, **values: Any) -> HandSpec:
    return dataclasses.replace(spec, safety=dataclasses.replace(spec.safety, **values))


class RecordingHand(MockHand):
    """Remembers the targets that reached it."""

    def __init__(self, spec: HandSpec, world: MockWorld | None = None) -> None:
        super().__init__(spec, None, world)
        self.sent: list[FloatArray] = []

    def command(self, targets: FloatArray, stiffness: FloatArray) -> FloatArray:
        sent = super().command(targets, stiffness)
        self.sent.append(sent.copy())
        return sent


class Rig:
    """A driver around a hand in memory, with its own clock, that checks every step for the bounds."""

    def __init__(self, spec: HandSpec = SPEC, world: MockWorld | None = None, episode: str = "e") -> None:
        self.spec = spec
        self.hand = RecordingHand(spec, world)
        self.driver = Driver(self.hand, spec, JointActions(spec))
        self.now = 100.0
        self.ids = 0
        self.driver.start(self.now)
        self.driver.begin(episode, 0, self.now)
        self.last = self.driver.safety.command.copy()
        self.moved = np.zeros_like(self.last)
        self.lower, self.upper = spec.values("lower"), spec.values("upper")
        self.speed = spec.values("max_velocity") * spec.period
        self.change = spec.values("max_acceleration") * spec.period**2

    @property
    def world(self) -> MockWorld:
        return self.hand.world

    def chunk(self, targets: FloatArray, steps: int = 10, **values: Any) -> Chunk:
        """One that asks for joint targets (J,), or rows of them (h, J)."""
        self.ids += 1
        actions = JointActions(self.spec).joints_to_action(np.atleast_2d(targets))
        if len(actions) == 1:
            actions = np.repeat(actions, steps, axis=0)
        made = Chunk(
            episode_id=self.driver.at.episode_id,
            chunk_id=self.ids,
            obs_id=self.ids,
            obs_step=self.driver.at.step,
            source="policy",
            policy_version=0,
            policy_sha256="",
            log_prob=0.0,
            dt=self.spec.period,
            actions=actions,
            execute_steps=len(actions),
            expiry=self.driver.robot_time + 1.0,
        )
        return dataclasses.replace(made, **values)

    def offer(self, targets: FloatArray, steps: int = 10, **values: Any) -> bool:
        return self.driver.offer(self.chunk(targets, steps, **values), self.now)

    def step(self, passed: float | None = None) -> Outcome:
        """One control period, in which every bound is checked."""
        self.now += self.spec.period if passed is None else passed
        before = len(self.hand.sent)
        outcome = self.driver.step(self.now)
        self.check(outcome, reached=len(self.hand.sent) > before)
        return outcome

    def steps(self, count: int) -> Outcome:
        for _ in range(count):
            outcome = self.step()
        return outcome

    def check(self, outcome: Outcome, reached: bool) -> None:
        """Position, speed, acceleration, pairs; and what is not followed stands still or brakes."""
        target = outcome.decision.target
        if not reached:
            target = self.last  # what is in force
        moved = target - self.last
        assert np.isfinite(target).all()
        assert (target >= np.minimum(self.lower, self.last)).all(), "range"
        assert (target <= np.maximum(self.upper, self.last)).all(), "range"
        assert (np.abs(moved) <= self.speed + TINY).all(), "speed"
        stopped = outcome.decision.mode.value == "estop" or bool(outcome.decision.faults) or not reached
        if stopped:
            assert (np.abs(moved) == 0.0).all(), "a stop is a stop"
        else:
            assert (np.abs(moved - self.moved) <= self.change + TINY).all(), "acceleration"
        matrix, bounds = self.spec.pair_matrix
        assert (matrix @ target <= np.maximum(bounds, matrix @ self.last) + TINY).all(), "fingers touch"
        if outcome.decision.refused:
            assert outcome.done is None and outcome.decision.mode.value != "active"
        assert (outcome.decision.stiffness <= 1.0).all() and (outcome.decision.stiffness >= 0.0).all()
        self.last, self.moved = target.copy(), np.zeros_like(moved) if stopped else moved

    def recover(self, reason: str = "looked after") -> None:
        """Joints that nothing held may be taken up elsewhere; the others keep their targets."""
        limp = ~self.world.torque
        try:
            self.driver.recover(reason)
        finally:
            taken = self.driver.safety.command
            assert (taken[~limp] == self.last[~limp]).all()
            self.last = taken.copy()

    def begin(self, episode: str) -> None:
        self.driver.begin(episode, 0, self.now)
        self.ids = 0


def moving(rig: Rig, steps: int = 6) -> None:
    """In the middle of a chunk, on the way."""
    assert rig.offer(NEAR, steps=20)
    for _ in range(steps):
        assert rig.step().decision.mode is Mode.ACTIVE
    assert np.abs(rig.moved).max() > 0.0
