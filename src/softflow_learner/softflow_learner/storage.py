"""Flat arrays of steps, grown by doubling up to a cap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softflow_learner.segments import NO_PLACE, Segment, Sizes

INITIAL = 4096
"""[steps]"""
PARTITIONS = ("offline", "online", "held_out")
OFFLINE, ONLINE, HELD_OUT = range(3)
NO_POOL = -1


class ReplayFullError(RuntimeError):
    """The capacity is reached, and nothing is left to forget."""


class Storage:
    """One row per step, in order of arrival; `following` links the steps of an episode."""

    def __init__(self, state_dim: int, action_dim: int, capacity: int) -> None:
        self.sizes = Sizes(state_dim, action_dim)
        self.capacity = capacity
        self.count = 0
        rows = min(INITIAL, capacity)
        self.states = np.zeros((rows, state_dim), np.float32)
        self.next_states = np.zeros((rows, state_dim), np.float32)
        self.actions = np.zeros((rows, action_dim), np.float32)
        self.rewards = np.zeros(rows, np.float32)
        self.terminated = np.zeros(rows, bool)
        self.interventions = np.zeros(rows, bool)
        self.partition = np.zeros(rows, np.int8)
        # The partition from which the window that starts here is drawn, NO_POOL until it is complete.
        self.pool = np.full(rows, NO_POOL, np.int8)
        self.following = np.full(rows, NO_PLACE, np.int64)
        self._ready: list[list[NDArray[np.int64]]] = [[] for _ in PARTITIONS]

    @property
    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}

    def append(self, segment: Segment, partition: int, previous: int) -> NDArray[np.int64]:
        """Store a segment behind the step at `previous`; returns the places (n,). Room must be there."""
        places = np.arange(self.count, self.count + segment.steps)
        self._reserve(self.count + segment.steps)
        self.states[places] = segment.states[:-1]
        self.next_states[places] = segment.states[1:]
        self.actions[places] = segment.actions
        self.rewards[places] = segment.rewards
        self.interventions[places] = segment.interventions
        self.partition[places] = partition
        self.terminated[places] = False
        self.pool[places] = NO_POOL
        chain = np.concatenate([[previous] if previous != NO_PLACE else [], places]).astype(np.int64)
        self.following[chain[:-1]] = chain[1:]
        self.following[chain[-1:]] = NO_PLACE
        self.terminated[chain[-1:]] = segment.terminated
        self.count += segment.steps
        return places

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
            mine = places[pool == partition]
            if len(mine):
                self._ready[partition].append(mine)

    def ready(self, partition: int) -> NDArray[np.int64]:
        """Places at which a window may start that is drawn with this partition."""
        parts = self._ready[partition]
        if len(parts) != 1:
            parts[:] = [np.concatenate(parts) if parts else np.empty(0, np.int64)]
        return parts[0]

    def of(self, partition: int) -> NDArray[np.int64]:
        """All places of a partition."""
        return np.flatnonzero(self.partition[: self.count] == partition)

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

    def make_room(self, steps: int, heads: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Forget the oldest online steps if `steps` more would not fit; `heads` stay.

        A tenth of the capacity at once, because the rest has to be moved. Returns the new place of each old
        one, or None if nothing moved.

        Raises:
            ReplayFullError: not enough online steps to forget.
        """
        missing = self.count + steps - self.capacity
        if missing <= 0:
            return None
        candidates = np.setdiff1d(self.of(ONLINE), heads)
        if len(candidates) < missing:
            raise ReplayFullError(
                f"replay holds {self.count} steps, capacity is {self.capacity}: no room for {steps} more, "
                f"{len(candidates)} online steps could be forgotten"
            )
        return self._forget(candidates[: max(missing, self.capacity // 10)])

    def _forget(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        keep = np.ones(self.count, bool)
        keep[places] = False
        new_place = np.where(keep, np.cumsum(keep) - 1, NO_PLACE)
        kept = int(keep.sum())
        for array in self._arrays.values():
            array[:kept] = array[: self.count][keep]
        linked = self.following[:kept] != NO_PLACE
        self.following[:kept][linked] = new_place[self.following[:kept][linked]]
        self.count = kept
        for partition in range(len(PARTITIONS)):
            self._ready[partition] = [np.flatnonzero(self.pool[:kept] == partition)]
        return new_place

    def _reserve(self, rows: int) -> None:
        size = len(self.rewards)
        if rows <= size:
            return
        while size < rows:
            size *= 2
        size = min(size, self.capacity)
        for name, array in self._arrays.items():
            grown = np.zeros((size, *array.shape[1:]), array.dtype)
            grown[: self.count] = array[: self.count]
            setattr(self, name, grown)
