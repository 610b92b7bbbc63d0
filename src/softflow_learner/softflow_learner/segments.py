"""Segments of episodes: checking them, and keeping account of episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_PLACE = -1
ACTION_SLACK = 1e-5
"""Rounding that an action may be outside of [-1, 1]."""


class SegmentError(ValueError):
    """A segment that cannot be stored. The text names field, value and bound."""


class Sizes(NamedTuple):
    """Of one transition."""

    state_dim: int
    action_dim: int


@dataclass(frozen=True)
class Segment:
    """n consecutive transitions, checked."""

    states: NDArray[np.float32]
    """(n+1, S)."""
    actions: NDArray[np.float32]
    """(n, A)."""
    rewards: NDArray[np.float32]
    """(n,)."""
    interventions: NDArray[np.bool_]
    """(n,), steps whose action a human applied."""
    terminated: bool
    final: bool

    @property
    def steps(self) -> int:
        return len(self.rewards)

    @classmethod
    def checked(
        cls,
        states: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        *,
        terminated: bool,
        final: bool,
        sizes: Sizes,
        interventions: NDArray[Any] | None = None,
    ) -> Segment:
        """`interventions` None = nowhere. Raises SegmentError."""
        n = len(rewards)
        taken = np.zeros(n, bool) if interventions is None else interventions
        shapes = {
            "states": (states, (n + 1, sizes.state_dim)),
            "actions": (actions, (n, sizes.action_dim)),
            "rewards": (rewards, (n,)),
        }
        for name, (array, shape) in shapes.items():
            _check_array(name, array, shape)
        _check_flags("interventions", taken, n)
        worst = float(np.abs(actions).max(initial=0.0))
        if worst > 1.0 + ACTION_SLACK:
            raise SegmentError(f"actions have the magnitude {worst}, must be at most 1")
        if terminated and not final:
            raise SegmentError("final is False, must be True where terminated is")
        if n == 0 and not final:
            raise SegmentError("steps is 0, must be at least 1 unless the segment is final")
        f32 = np.float32
        arrays = (states.astype(f32), actions.astype(f32), rewards.astype(f32))
        return cls(*arrays, taken, terminated, final)


def _check_array(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise SegmentError(f"{name} has shape {array.shape}, must be {shape}")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise SegmentError(f"{name}{bad} is {array[tuple(bad)]}, must be finite")


def _check_flags(name: str, array: NDArray[Any], length: int) -> None:
    if array.shape != (length,):
        raise SegmentError(f"{name} has shape {array.shape}, must be {(length,)}")
    if array.dtype != bool:
        raise SegmentError(f"{name} has dtype {array.dtype}, must be bool")


@dataclass
class OpenEpisode:
    """An episode that has not ended yet."""

    number: int = -1
    """In the order of their beginnings."""
    held_out: bool = False
    steps: int = 0
    last: int = NO_PLACE
    """Place of its newest step in the storage."""
    last_state: NDArray[np.float32] | None = None
    last_images: NDArray[np.int64] | None = None
    """Where the images of `last_state` are, one a camera."""
    pending: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Places of the newest steps, whose windows are not complete yet."""


@dataclass
class Kept:
    """Where the steps of an episode are, open or ended."""

    parts: list[NDArray[np.int64]] = field(default_factory=list)
    """Places of those that are stored, in order."""
    forgotten: int = 0
    """Steps before them."""

    def places(self) -> NDArray[np.int64]:
        """(n,), in order."""
        if len(self.parts) != 1:
            self.parts = [np.concatenate(self.parts) if self.parts else np.empty(0, np.int64)]
        return self.parts[0]


class EpisodeBook:
    """Which episodes are open, where each one's head is, and which places belong to an episode."""

    def __init__(self) -> None:
        self._open: dict[str, OpenEpisode] = {}
        self._ended: set[str] = set()
        self._kept: list[Kept] = []
        self._numbers: dict[str, int] = {}

    def match(self, episode_id: str, segment: Segment, start_step: int | None) -> OpenEpisode:
        """The episode that the segment continues, or a new one. Changes nothing.

        Raises:
            SegmentError: the episode has ended, or the segment is not its next one.
        """
        if episode_id in self._ended:
            raise SegmentError(f"episode_id {episode_id!r} has ended, must be a new or an open one")
        episode = self._open.get(episode_id) or OpenEpisode(number=len(self._kept))
        if start_step is not None and start_step != episode.steps:
            raise SegmentError(
                f"start_step is {start_step}, must be {episode.steps} in episode {episode_id!r}"
            )
        if episode.last_state is not None and not np.array_equal(episode.last_state, segment.states[0]):
            raise SegmentError(f"states[0] must equal the last state before it in episode {episode_id!r}")
        return episode

    def update(self, episode_id: str, episode: OpenEpisode, places: NDArray[np.int64], final: bool) -> None:
        """Keep the episode with its new steps, or close it."""
        if episode.number == len(self._kept):
            self._kept.append(Kept())
            self._numbers[episode_id] = episode.number
        self._kept[episode.number].parts.append(places)
        if final:
            self._open.pop(episode_id, None)
            self._ended.add(episode_id)
        else:
            self._open[episode_id] = episode

    def episodes(self) -> list[str]:
        """All that ever began, in this order."""
        return list(self._numbers)

    def kept(self, episode_id: str) -> Kept:
        """Where an episode's steps are. Raises ValueError for an unknown one."""
        if episode_id not in self._numbers:
            raise ValueError(
                f"episode_id is {episode_id!r}, must be one of the {len(self._numbers)} received"
            )
        return self._kept[self._numbers[episode_id]]

    def heads(self) -> NDArray[np.int64]:
        """Places that the open episodes still refer to."""
        places = [e.pending for e in self._open.values()]
        places += [np.array([e.last], np.int64) for e in self._open.values()]
        return np.unique(np.concatenate(places)) if places else np.empty(0, np.int64)

    def forget(self, numbers: NDArray[np.int32]) -> None:
        """One step of each of these episodes is gone, the oldest, as often as its number comes."""
        for number, count in zip(*np.unique(numbers, return_counts=True), strict=True):
            kept = self._kept[number]
            kept.parts = [kept.places()[count:]]
            kept.forgotten += int(count)
