"""The course of an episode: observations in order, rewards, the end. Plain Python."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from softflow_tasks.task import Outcome, StateVector, Task

MODES = ("train", "eval", "demo")
TASK, CLASSIFIER = REWARDS = ("task", "classifier")
"""Who rewards a step and says what a success is: the task by its state, or a classifier by its pictures."""
SUCCESS = "success"
"""Cause of the end of an episode in which a classifier has seen one."""


def episode_seed(mode: str, seed: int, index: int) -> int:
    """Seed of the start state of an episode; the same for every policy, so that evaluations are paired.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, allowed: {', '.join(MODES)}")
    return int(np.random.SeedSequence([MODES.index(mode), seed, index]).generate_state(1, np.uint32)[0])


class OutOfOrderError(ValueError):
    """An observation, or a verdict, is missing: the episode can no longer be judged."""


@dataclass(frozen=True)
class Verdict:
    """What a classifier sees in the pictures of an observation.

    Raises:
        ValueError: a number out of bounds.
    """

    step: int
    """Of the observation: the one that the judged step led to."""
    probability: float
    """Of a success."""
    threshold: float
    """A success from this probability on."""
    success_reward: float

    def __post_init__(self) -> None:
        for name in ("probability", "threshold"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} of step {self.step} is {getattr(self, name)}, must be in [0, 1]")
        if not np.isfinite(self.success_reward):
            raise ValueError(f"success_reward of step {self.step} is {self.success_reward}, must be finite")

    @property
    def success(self) -> bool:
        """Whether the pictures show one."""
        return self.probability >= self.threshold

    @property
    def confidence(self) -> float:
        """Probability of what is said, success or not."""
        return self.probability if self.success else 1.0 - self.probability


@dataclass
class Episode:
    """Judges one episode, observation by observation.

    With `reward` classifier an observation waits for its verdict. The first success earns its reward and ends the
    episode, all else earns nothing; of the task's own ends those hold that are no success.
    """

    task: Task
    episode_id: str
    index: int
    seed: int
    reward: str = TASK
    """One of REWARDS."""
    rewards: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    """That each reward is right."""
    outcome: Outcome | None = None
    """Set when the episode has ended."""

    def __post_init__(self) -> None:
        self.progress = self.task.begin()
        self._seen = 0
        self._state: StateVector | None = None
        self._waiting: deque[StateVector] = deque()
        self._verdicts: deque[Verdict] = deque()
        self._heard = 0

    @property
    def steps(self) -> int:
        """Control steps judged so far."""
        return len(self.rewards)

    @property
    def waits(self) -> int:
        """Observations that are not judged yet."""
        return len(self._waiting)

    @property
    def success(self) -> bool:
        """Whether the episode is a success so far, by whoever rewards it."""
        if self.reward == TASK:
            return self.task.success(self.progress)
        return self.outcome is not None and self.outcome.cause == SUCCESS

    def observe(self, step: int, state: StateVector) -> Outcome | None:
        """Judge the step that led to this observation; None for the first, a repeated, a late, or a waiting one.

        Raises:
            ValueError: wrong size or not finite, naming the field.
            OutOfOrderError: an observation is missing.
        """
        self.task.check_state(state)
        if self.outcome is not None or step < self._seen:
            return None
        if step > self._seen:
            raise OutOfOrderError(f"observation of step {step} came, {self._seen} was expected")
        self._seen += 1
        if self._state is None:
            self._state = state
            return None
        self._waiting.append(state)
        return self._judge()

    def hear(self, verdict: Verdict) -> Outcome | None:
        """Judge what waited for a classifier's verdict; the outcome of the last step judged, None where none was.

        The first verdict on a step holds. No step leads to the start of an episode: that on step 0 counts for nothing.

        Raises:
            OutOfOrderError: a verdict is missing.
        """
        if self.reward != CLASSIFIER or self.outcome is not None or verdict.step <= self._heard:
            return None
        if verdict.step > self._heard + 1:
            raise OutOfOrderError(f"verdict on step {verdict.step} came, {self._heard + 1} was expected")
        self._heard += 1
        self._verdicts.append(verdict)
        return self._judge()

    def _judge(self) -> Outcome | None:
        outcome = None
        while self._waiting and self.outcome is None:
            verdict = self._verdicts.popleft() if self._verdicts else None
            if self.reward == CLASSIFIER and verdict is None:
                break
            before, self._state = self._state, self._waiting.popleft()
            assert before is not None
            outcome = self.task.advance(self.progress, before, self._state)
            if verdict is not None:
                outcome = self._by_classifier(outcome, verdict)
            self.rewards.append(outcome.reward)
            self.confidences.append(verdict.confidence if verdict is not None else 1.0)
            if outcome.terminated or outcome.truncated:
                self.outcome = outcome
        return outcome

    def _by_classifier(self, outcome: Outcome, verdict: Verdict) -> Outcome:
        """What becomes of the task's own outcome."""
        if verdict.success:
            return Outcome(verdict.success_reward, terminated=True, truncated=False, cause=SUCCESS)
        if outcome.terminated and outcome.cause == self.task.success_cause:
            # The task may know from a simulation what the pictures do not show: that must not end the episode.
            timeout = self.progress.step >= self.task.horizon
            return Outcome(0.0, terminated=False, truncated=timeout, cause="time_limit" if timeout else "")
        return replace(outcome, reward=0.0)
