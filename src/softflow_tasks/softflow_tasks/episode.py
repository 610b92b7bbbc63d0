"""The course of an episode: observations in order, rewards, the end. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from softflow_tasks.task import Outcome, StateVector, Task

MODES = ("train", "eval", "demo")


def episode_seed(mode: str, seed: int, index: int) -> int:
    """Seed of the start state of an episode; the same for every policy, so that evaluations are paired.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, allowed: {', '.join(MODES)}")
    return int(np.random.SeedSequence([MODES.index(mode), seed, index]).generate_state(1, np.uint32)[0])


class OutOfOrderError(ValueError):
    """An observation is missing: the episode can no longer be judged."""


@dataclass
class Episode:
    """Judges one episode, observation by observation."""

    task: Task
    episode_id: str
    index: int
    seed: int
    rewards: list[float] = field(default_factory=list)
    outcome: Outcome | None = None
    """Set when the episode has ended."""

    def __post_init__(self) -> None:
        self.progress = self.task.begin()
        self._state: StateVector | None = None

    @property
    def steps(self) -> int:
        """Control steps judged so far."""
        return len(self.rewards)

    def observe(self, step: int, state: StateVector) -> Outcome | None:
        """Judge the step that led to this observation; None for the first, a repeated, or a late one.

        Raises:
            ValueError: wrong size or not finite, naming the field.
            OutOfOrderError: an observation is missing.
        """
        self.task.check_state(state)
        expected = self.steps + 1 if self._state is not None else 0
        if self.outcome is not None or step < expected:
            return None
        if step > expected:
            raise OutOfOrderError(f"observation of step {step} came, {expected} was expected")
        before, self._state = self._state, state
        if before is None:
            return None
        outcome = self.task.advance(self.progress, before, state)
        self.rewards.append(outcome.reward)
        if outcome.terminated or outcome.truncated:
            self.outcome = outcome
        return outcome
