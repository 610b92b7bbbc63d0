"""Rows of steps in arrays of fixed capacity, in memory or in a file.

Appending costs by the steps appended, sampling by the batch. Rows of forgotten steps are used again, so nothing is
moved; which step is older says `arrival`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow_learner.segments import NO_PLACE, Segment, Sizes

PARTITIONS = ("offline", "online", "held_out", "failed")
OFFLINE, ONLINE, HELD_OUT, FAILED = range(4)
NO_POOL = -1


class ReplayFullError(RuntimeError):
    """The capacity is reached, and nothing is left to forget."""


class Storage:
    """One row per step; its place is the row's number. `following` links the steps of an episode."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        capacity: int,
        *,
        directory: Path | None = None,
        cameras: int = 0,
    ) -> None:
        """Memory is taken as rows are used; a file under `directory` has its whole size at once.

        Raises:
            ValueError: arrays of this capacity cannot be had.
            OSError: the disk has no room for them.
        """
        self.sizes = Sizes(state_dim, action_dim)
        self.capacity = capacity
        self.count = 0
        try:
            self.states = _array((capacity, state_dim), directory)
            self.next_states = _array((capacity, state_dim), directory)
            self.actions = _array((capacity, action_dim), directory)
            self._allocate(capacity, cameras)
        except MemoryError as error:
            raise ValueError(f"capacity is {capacity}, too much for this machine: {error}") from error
        self._ready_count = [0] * len(PARTITIONS)
        self._stored = [0] * len(PARTITIONS)
        self._used = 0  # rows that were ever used
        self._free = np.empty(0, np.int64)
        self._arrived = 0

    def _allocate(self, rows: int, cameras: int) -> None:
        self.rewards = np.zeros(rows, np.float32)
        self.revisions = np.zeros(rows, np.int32)
        self.terminated = np.zeros(rows, bool)
        self.interventions = np.zeros(rows, bool)
        # Somebody planned in the episode.
        self.planned = np.zeros(rows, bool)
        self.partition = np.zeros(rows, np.int8)
        # The partition from which the window that starts here is drawn, NO_POOL until it is complete.
        self.pool = np.zeros(rows, np.int8)
        self.following = np.zeros(rows, np.int64)
        self.arrival = np.zeros(rows, np.int64)
        self.episode = np.zeros(rows, np.int32)
        # Where the images of s_t and s_{t+1} are, a column a camera.
        self.images = np.zeros((rows, cameras), np.int64)
        self.next_images = np.zeros((rows, cameras), np.int64)
        self._ready = [np.zeros(rows, np.int64) for _ in PARTITIONS]

    def append(
        self,
        segment: Segment,
        partition: int,
        previous: int,
        episode: int = 0,
        images: NDArray[Any] | None = None,
    ) -> NDArray[np.int64]:
        """Store a segment behind the step at `previous`; returns the places (n,). Room must be there.

        `episode` is its number, `images` (n+1, cameras) where the images of its states are.
        """
        n = segment.steps
        places = self._take(n)
        self.states[places] = segment.states[:-1]
        self.next_states[places] = segment.states[1:]
        self.actions[places] = segment.actions
        self.rewards[places] = segment.rewards
        self.revisions[places] = 0
        self.interventions[places] = segment.interventions
        self.partition[places] = partition
        self.terminated[places] = False
        self.pool[places] = NO_POOL
        self.episode[places] = episode
        self.arrival[places] = np.arange(self._arrived, self._arrived + n)
        if images is not None:
            self.images[places], self.next_images[places] = images[:-1], images[1:]
        chain = np.concatenate([[previous] if previous != NO_PLACE else [], places]).astype(np.int64)
        self.following[chain[:-1]] = chain[1:]
        self.following[chain[-1:]] = NO_PLACE
        self.terminated[chain[-1:]] = segment.terminated
        self._arrived += n
        self.count += n
        self._stored[partition] += n
        return places

    def _take(self, n: int) -> NDArray[np.int64]:
        again, self._free = self._free[:n], self._free[n:]
        new = np.arange(self._used, self._used + n - len(again))
        self._used += len(new)
        return np.concatenate([again, new])

    def follow(self, starts: NDArray[np.int64], horizon: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The places of `horizon` steps from each start, and which lie inside the episode, (B, h) both.

        Past the episode's end its last place is repeated.
        """
        places = np.empty((len(starts), horizon), np.int64)
        inside = np.ones((len(starts), horizon), bool)
        places[:, 0] = starts
        for i in range(1, horizon):
            following = self.following[places[:, i - 1]]
            inside[:, i] = following != NO_PLACE
            places[:, i] = np.where(inside[:, i], following, places[:, i - 1])
        return places, inside

    def release(self, places: NDArray[np.int64], horizon: int) -> None:
        """Windows of up to `horizon` steps may start at these places from now on.

        One that a human applied from start to end is a demonstration, whatever the episode's source.
        """
        pool = self.partition[places]
        candidates = np.flatnonzero(self.interventions[places] & (pool == ONLINE))
        if len(candidates):
            steps, _ = self.follow(places[candidates], horizon)
            pool[candidates[self.interventions[steps].all(1)]] = OFFLINE
        self.pool[places] = pool
        for partition in range(len(PARTITIONS)):
            self._add_ready(partition, places[pool == partition])

    def _add_ready(self, partition: int, places: NDArray[np.int64]) -> None:
        count = self._ready_count[partition]
        self._ready[partition][count : count + len(places)] = places
        self._ready_count[partition] += len(places)

    def ready(self, partition: int) -> NDArray[np.int64]:
        """Places at which a window may start that is drawn with this partition."""
        return self._ready[partition][: self._ready_count[partition]]

    def stored(self, partition: int) -> int:
        """Steps of a partition."""
        return self._stored[partition]

    def of(self, partition: int) -> NDArray[np.int64]:
        """All places of a partition, oldest first. Looks at every row."""
        used = np.ones(self._used, bool)
        used[self._free] = False
        return self._by_age(np.flatnonzero(used & (self.partition[: self._used] == partition)))

    def _by_age(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return places[np.argsort(self.arrival[places], kind="stable")]

    def returns_to_end(
        self, starts: NDArray[np.int64], gamma: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Discounted return to the episode's end, and the weight of what a time-out cut off, both (N,)."""
        total, weight = np.zeros(len(starts)), np.ones(len(starts))
        place, active = starts.copy(), np.ones(len(starts), bool)
        while active.any():
            total += np.where(active, weight * self.rewards[place], 0.0)
            weight *= np.where(active, np.where(self.terminated[place], 0.0, gamma), 1.0)
            active &= self.following[place] != NO_PLACE
            place = np.where(active, self.following[place], place)
        return total, weight

    def relabel(
        self, places: NDArray[np.int64], rewards: Sequence[float] | NDArray[Any], revision: int
    ) -> int:
        """New rewards where they are newer than what is there; returns how many."""
        newer = self.revisions[places] < revision
        self.rewards[places[newer]] = np.asarray(rewards, np.float32)[newer]
        self.revisions[places[newer]] = revision
        return int(newer.sum())

    def make_room(self, steps: int, heads: NDArray[np.int64]) -> NDArray[np.int64]:
        """Forget the oldest online steps if `steps` more would not fit; `heads` stay.

        A tenth of the capacity at once, because every row is looked at. Returns the places forgotten.

        Raises:
            ReplayFullError: not enough online steps to forget.
        """
        missing = self.count + steps - self.capacity
        if missing <= 0:
            return np.empty(0, np.int64)
        candidates = self.of(ONLINE)
        candidates = candidates[~np.isin(candidates, heads)]
        if len(candidates) < missing:
            raise ReplayFullError(
                f"replay holds {self.count} steps, capacity is {self.capacity}: no room for {steps} more, "
                f"{len(candidates)} online steps could be forgotten"
            )
        return self._forget(candidates[: max(missing, self.capacity // 10)])

    def _forget(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        gone = np.zeros(self._used, bool)
        gone[places] = True
        for partition in range(len(PARTITIONS)):
            ready = self.ready(partition)
            kept = self._by_age(ready[~gone[ready]])
            self._ready_count[partition] = 0
            self._add_ready(partition, kept)
        self._free = np.concatenate([self._free, places])
        self._stored[ONLINE] -= len(places)
        self.count -= len(places)
        return places


def _array(shape: tuple[int, int], directory: Path | None) -> NDArray[np.float32]:
    """Zeros. A file has no name: it goes with the process, so none of an earlier one is ever believed."""
    if directory is None or 0 in shape:
        return np.zeros(shape, np.float32)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        # All of it now: a disk that fills up under a mapping would end the process by a signal.
        os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
        return np.memmap(file, np.float32, "r+", shape=shape)
