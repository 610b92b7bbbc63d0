"""Assembles an episode's arrays from its messages; the same code reads the live topics and a bag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow_recorder.gaps import Gaps
from softflow_recorder.images import ImageTrack, MissingImageError

Float32Array = NDArray[np.float32]

START, TERMINATED, TRUNCATED, DISCARDED = range(4)
"""EpisodeEvent.kind"""
TELEOP = "teleop"
"""Source of chunks that a human made."""
HUMAN = "human"
"""Source of rewards that a human gave."""
RECOVERED = "recovered"
"""Cause of the end of an episode of which only the beginning is there."""


@dataclass(frozen=True)
class EpisodeData:
    """One complete episode of n control steps."""

    episode_id: str
    index: int
    task: str
    layout_hash: str
    mode: str
    source: str
    """"policy", "teacher", ... of the first chunk; empty where nobody planned"""
    seed: int
    states: Float32Array
    """(n+1, S)"""
    actions: Float32Array
    """(n, A) as applied, in [-1, 1]"""
    rewards: Float32Array
    """(n,)"""
    policy_versions: NDArray[np.uint64]
    """(n,), 0 = not a policy"""
    terminated: bool
    truncated: bool
    cause: str
    success: bool
    """As the end of the episode announced; see `succeeded`"""
    metrics: dict[str, float]
    interventions: NDArray[np.bool_]
    """(n,), a human applied the action"""
    images: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    """camera -> n+1 compressed images, one a state"""
    reward_sources: tuple[str, ...] = ()
    """(n,) who gave each reward: "task", "vision", "human", "classifier", "import"; empty where it is not known"""

    @property
    def steps(self) -> int:
        """n"""
        return len(self.rewards)

    @property
    def succeeded(self) -> bool:
        """By a human's reward of the last step (above 0), where there is one; else as the end was announced."""
        if self.reward_sources and self.reward_sources[-1] == HUMAN:
            return bool(self.rewards[-1] > 0.0)
        return self.success


EPISODE_TOPICS = (
    "observation",
    "reward_label",
    "chunk_result",
    "action_chunk",
    "hand_description",
    "episode_event",
)
"""Last parts of the topics that an episode is made of, besides images."""


class EpisodeError(ValueError):
    """The messages of an episode are incomplete or contradict each other; the text names what and where."""


@dataclass
class EpisodeAssembler:
    """Collects messages of one episode, in any order between topics."""

    episode_id: str
    states: dict[int, Float32Array] = field(default_factory=dict)
    applied: dict[int, Float32Array] = field(default_factory=dict)
    rewards: dict[int, tuple[int, float, str]] = field(default_factory=dict)
    """step -> revision, value, source"""
    verdicts: set[int] = field(default_factory=set)
    """steps of observations that a classifier has judged"""
    versions: dict[int, int] = field(default_factory=dict)
    by_human: set[int] = field(default_factory=set)
    weights: dict[int, str] = field(default_factory=dict)
    """policy version -> sha256 of its weights"""
    stamps: dict[int, int] = field(default_factory=dict)
    """step -> stamp of its observation [ns]"""
    references: dict[int, list[str]] = field(default_factory=dict)
    """step -> images that its observation names"""
    images: ImageTrack = field(default_factory=ImageTrack)
    gaps: Gaps = field(default_factory=Gaps)
    keep_images: bool = True
    """Without, their stamps only: a recorder has the bytes in the bag."""
    description: Any = None
    start: Any = None
    end: Any = None
    source: str = ""
    task: str = ""
    layout_hash: str = ""

    def add(self, topic: str, message: Any) -> None:
        """Add a message by the last part of its topic; topics that carry no episode data are ignored."""
        self.gaps.add(topic, message)
        if topic == "observation":
            self._add_observation(message)
        elif topic == "reward_label":
            self.label(message.start_step, message.values, message.revision, message.source)
        elif topic == "success_verdict":
            self.verdicts.add(message.step)
        elif topic == "chunk_result":
            for i in range(message.executed_steps):
                self.versions[message.start_step + i] = message.policy_version
                # Bags of the first releases do not have it.
                if getattr(message, "source", "") == TELEOP:
                    self.by_human.add(message.start_step + i)
        elif topic == "action_chunk":
            # Steps say themselves whether a human applied them; an episode is a human's if nobody else planned in it.
            if self.source in ("", TELEOP):
                self.source = message.source
            if message.policy_version:
                self.weights[message.policy_version] = message.policy_sha256
        elif topic == "hand_description":
            self.description = message
        elif topic == "episode_event":
            if message.kind == START:
                self.start = message
            else:
                self.end = message

    def label(self, start: int, values: Sequence[float], revision: int, source: str) -> None:
        """Rewards from step `start` on; of several for a step the highest revision holds, of equal ones the later."""
        for step, value in enumerate(values, start):
            known = self.rewards[step][0] if step in self.rewards else -1
            if revision >= known:
                self.rewards[step] = (revision, float(value), source)

    def add_image(self, topic: str, message: Any) -> bool:
        """Add a compressed image by its whole topic; whether it is new."""
        return self.images.add(topic, _nanoseconds(message), bytes(message.data) if self.keep_images else b"")

    def _add_observation(self, message: Any) -> None:
        if message.step in self.states:
            return
        self.stamps[message.step] = _nanoseconds(message)
        self.references[message.step] = list(message.images)
        self.states[message.step] = np.array(message.state, dtype=np.float32)
        self.applied[message.step] = np.array(message.applied_action, dtype=np.float32)
        self.task, self.layout_hash = message.task, message.layout_hash

    @property
    def ended(self) -> bool:
        """Whether the end of the episode was announced."""
        return self.end is not None

    @property
    def discarded(self) -> bool:
        """Whether the episode is not to be learned from."""
        return self.ended and self.end.kind == DISCARDED

    @property
    def settled(self) -> bool:
        """Whether the end is known, and what else belongs to it has come or cannot matter.

        That is the result of the chunk that was played then, the images that observations name, and where a classifier
        judges its verdict on the last of them.
        """
        return self.discarded or (
            self.ended
            and (self.end.last_step == 0 or self.end.last_step - 1 in self.versions)
            and all(map(self.images.holds, self.references.values()))
            and (not self.verdicts or self.end.last_step in self.verdicts)
        )

    @property
    def usable_steps(self) -> int:
        """Steps from the first on of which all observations, with the images they name, and rewards are there."""
        n = 0
        while self._is_there(0) and self._is_there(n + 1) and n in self.rewards:
            n += 1
        return min(n, self.end.last_step) if self.ended else n

    def _is_there(self, step: int) -> bool:
        return step in self.states and not self.images.lacks(self.references[step])

    def missing(self) -> str:
        """What is still missing, in words; empty when the episode is complete."""
        if not self.ended:
            return "the end of the episode"
        n = self.end.last_step
        for name, have, count in (("observation", self.states, n + 1), ("reward", self.rewards, n)):
            gaps = [i for i in range(count) if i not in have]
            if gaps:
                return f"{name} of step {gaps[0]} ({len(gaps)} of {count} missing)"
        gaps = [i for i in range(n + 1) if not self._is_there(i)]
        if gaps:
            return f"image that the observation of step {gaps[0]} names ({len(gaps)} of {n + 1} missing)"
        return ""

    def finish(self, recovered: bool = False) -> EpisodeData:
        """The episode as arrays.

        Args:
            recovered: of an incomplete episode, give its usable steps as one that was truncated.

        Raises:
            EpisodeError: it was discarded, or something is missing, has the wrong size, or is not finite.
        """
        if self.discarded:
            raise EpisodeError(f"episode {self.episode_id}: was discarded: {self.end.cause}")
        missing, about = self.missing(), self.end or self.start
        whole = not missing
        n = self.end.last_step if whole else self.usable_steps
        if not whole and not (recovered and n and about is not None):
            raise EpisodeError(f"episode {self.episode_id}: missing {missing}")
        if n == 0:
            raise EpisodeError(f"episode {self.episode_id}: has 0 steps, must have at least 1")
        data = EpisodeData(
            episode_id=self.episode_id,
            index=about.episode_index,
            task=self.task,
            layout_hash=self.layout_hash,
            mode=about.mode,
            source=self.source,
            seed=about.seed,
            states=self._stack("state", self.states, range(n + 1)),
            actions=self._stack("applied_action", self.applied, range(1, n + 1)),
            rewards=np.array([self.rewards[i][1] for i in range(n)], dtype=np.float32),
            policy_versions=np.array([self.versions.get(i, 0) for i in range(n)], dtype=np.uint64),
            terminated=whole and about.kind == TERMINATED,
            truncated=not whole or about.kind == TRUNCATED,
            cause=about.cause if whole else RECOVERED,
            success=whole and bool(about.success),
            metrics=self._metrics() if whole else {"steps": float(n)},
            interventions=np.array([i in self.by_human for i in range(n)], dtype=np.bool_),
            images=self._images(n),
            reward_sources=tuple(self.rewards[i][2] for i in range(n)),
        )
        if not np.isfinite(data.rewards).all():
            raise EpisodeError(f"episode {self.episode_id}: a reward is not finite")
        return data

    def _metrics(self) -> dict[str, float]:
        return dict(zip(self.end.metric_names, map(float, self.end.metric_values), strict=True))

    def _images(self, n: int) -> dict[str, tuple[bytes, ...]]:
        steps = range(n + 1)
        try:
            return self.images.select([self.stamps[i] for i in steps], [self.references[i] for i in steps])
        except MissingImageError as error:
            raise EpisodeError(f"episode {self.episode_id}: missing {error}") from error

    def _stack(self, name: str, rows: dict[int, Float32Array], steps: range) -> Float32Array:
        size = len(rows[steps[0]])
        for step in steps:
            row = rows[step]
            if len(row) != size:
                raise EpisodeError(
                    f"episode {self.episode_id}: {name} of step {step} has {len(row)} values, not {size}"
                )
            if not math.isfinite(float(row.sum())):
                raise EpisodeError(f"episode {self.episode_id}: {name} of step {step} is not finite")
        return np.stack([rows[step] for step in steps])


def _nanoseconds(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
