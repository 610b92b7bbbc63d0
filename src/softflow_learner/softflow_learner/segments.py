"""Segments of episodes: checking them, and keeping account of the episodes that are still open."""

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

    held_out: bool = False
    steps: int = 0
    last: int = NO_PLACE
    """Place of its newest step in the storage."""
    last_state: NDArray[np.float32] | None = None
    pending: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Places of the newest steps, whose windows are not complete yet."""


class EpisodeBook:
    """Which episodes are open, and where each one's head is."""

    def __init__(self) -> None:
        self._open: dict[str, OpenEpisode] = {}
        self._ended: set[str] = set()

    def match(self, episode_id: str, segment: Segment, start_step: int | None) -> OpenEpisode:
        """The episode that the segment continues, or a new one. Changes nothing.

        Raises:
            SegmentError: the episode has ended, or the segment is not its next one.
        """
        if episode_id in self._ended:
            raise SegmentError(f"episode_id {episode_id!r} has ended, must be a new or an open one")
        episode = self._open.get(episode_id) or OpenEpisode()
        if start_step is not None and start_step != episode.steps:
            raise SegmentError(
                f"start_step is {start_step}, must be {episode.steps} in episode {episode_id!r}"
            )
        if episode.last_state is not None and not np.array_equal(episode.last_state, segment.states[0]):
            raise SegmentError(f"states[0] must equal the last state before it in episode {episode_id!r}")
        return episode

    def update(self, episode_id: str, episode: OpenEpisode, final: bool) -> None:
        """Keep the episode, or close it."""
        if final:
            self._open.pop(episode_id, None)
            self._ended.add(episode_id)
        else:
            self._open[episode_id] = episode

    def heads(self) -> NDArray[np.int64]:
        """Places that the open episodes still refer to."""
        places = [e.pending for e in self._open.values()]
        places += [np.array([e.last], np.int64) for e in self._open.values()]
        return np.unique(np.concatenate(places)) if places else np.empty(0, np.int64)

    def relocate(self, new_place: NDArray[np.int64]) -> None:
        """After the storage has moved its steps; `new_place` is indexed by the old one."""
        for episode in self._open.values():
            episode.last = int(new_place[episode.last])
            episode.pending = new_place[episode.pending]
