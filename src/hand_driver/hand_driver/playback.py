"""Open-loop playback of action chunks, one action each control step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hand_driver.device import FloatArray
from hand_driver.safety import Refusal, check_finite


@dataclass(frozen=True)
class Chunk:
    """An action chunk as it came in. `actions` is (h, A)."""

    episode_id: str
    chunk_id: int
    obs_id: int
    obs_step: int
    source: str
    policy_version: int
    policy_sha256: str
    log_prob: float
    dt: float
    """[s]"""
    actions: FloatArray
    execute_steps: int
    expiry: float
    """[s] robot clock"""


@dataclass
class Playing:
    """A chunk being played, and what was applied of it."""

    chunk: Chunk
    start_step: int
    applied: list[FloatArray] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Steps still to be played."""
        return self.chunk.execute_steps - len(self.applied)

    @property
    def modified(self) -> bool:
        """Whether any applied action differs from the requested one."""
        return any(not np.array_equal(a, r) for a, r in zip(self.applied, self.chunk.actions, strict=False))


class ChunkPlayback:
    """Holds the chunk that is played and at most one that follows it.

    A chunk must belong to the running episode, come from announced weights, have the right size and period, be
    finite, and start before it expires.
    """

    def __init__(
        self, action_dim: int, period: float, max_horizon: int = 64, max_lead: float = math.inf
    ) -> None:
        self.action_dim, self.period, self.max_horizon, self.max_lead = (
            action_dim,
            period,
            max_horizon,
            max_lead,
        )
        self.known_versions: dict[int, str] = {}
        self.expired = 0
        """Chunks that were accepted and then had to wait beyond their expiry."""
        self._episode_id = self._previous_id = ""
        self._current: Playing | None = None
        self._next: Chunk | None = None
        self._last_id = 0

    @property
    def chunk_id(self) -> int:
        """Id of the chunk being played, 0 if none."""
        return self._current.chunk.chunk_id if self._current else 0

    @property
    def source(self) -> str:
        """Where the chunk being played comes from, empty if there is none."""
        return self._current.chunk.source if self._current else ""

    @property
    def steps_left(self) -> int:
        """Steps in the queue that are not yet played."""
        return (self._current.left if self._current else 0) + (self._next.execute_steps if self._next else 0)

    def begin(self, episode_id: str) -> None:
        """Start an episode with an empty queue."""
        self._previous_id, self._episode_id, self._last_id = self._episode_id, episode_id, 0
        self._current = self._next = None

    def announce(self, version: int, sha256: str) -> None:
        """Weights of this version may command the hand from now on."""
        self.known_versions[version] = sha256

    def offer(self, chunk: Chunk, now: float) -> bool:
        """Queue a chunk at robot time `now` [s]; False if it is a repetition of one that was accepted, or was
        planned for the end of the episode before, when a reset overtook it.

        Raises:
            Refusal: naming field, value and bound.
        """
        if self.superseded(chunk):
            return False
        self.check(chunk, now)
        if self._next is not None:
            raise Refusal(
                f"chunk_id {chunk.chunk_id}: the queue holds {self._next.chunk_id} already, depth is 1"
            )
        self._last_id = chunk.chunk_id
        self._next = chunk
        return True

    def superseded(self, chunk: Chunk) -> bool:
        """Whether it is a repetition, or was planned for the episode before."""
        if chunk.episode_id == self._previous_id != self._episode_id:
            return True
        return chunk.episode_id == self._episode_id and chunk.chunk_id <= self._last_id

    def check(self, chunk: Chunk, now: float) -> None:
        if chunk.episode_id != self._episode_id:
            raise Refusal(f"episode_id {chunk.episode_id!r}, the running episode is {self._episode_id!r}")
        shape = chunk.actions.shape
        if len(shape) != 2 or shape[1] != self.action_dim or not 1 <= shape[0] <= self.max_horizon:
            raise Refusal(f"actions has shape {shape}, must be (1..{self.max_horizon}, {self.action_dim})")
        if not 1 <= chunk.execute_steps <= shape[0]:
            raise Refusal(f"execute_steps is {chunk.execute_steps}, must be in [1, {shape[0]}]")
        if not abs(chunk.dt - self.period) <= 1e-6:  # so that NaN is refused
            raise Refusal(f"dt is {chunk.dt} s, the control period is {self.period} s")
        check_finite("actions", chunk.actions)
        if chunk.policy_version != 0 and self.known_versions.get(chunk.policy_version) != chunk.policy_sha256:
            known = ", ".join(f"{v} ({s[:8]})" for v, s in sorted(self.known_versions.items())) or "none"
            raise Refusal(
                f"policy_version {chunk.policy_version} ({chunk.policy_sha256[:8] or 'no sha256'}) was not "
                f"announced; announced: {known}"
            )
        if not now <= chunk.expiry:
            raise Refusal(f"expiry {chunk.expiry:.3f} s has passed, robot time is {now:.3f} s")
        if not chunk.expiry - now <= self.max_lead:
            raise Refusal(
                f"expiry {chunk.expiry:.3f} s is more than {self.max_lead} s after robot time {now:.3f} s: future-dated"
            )

    def next_action(self, step: int, now: float) -> FloatArray | None:
        """The action (A,) to apply at control step `step`, or None when there is nothing to play."""
        if self._current is None and self._next is not None:
            if now > self._next.expiry:
                self._next = None
                self.expired += 1
                return None
            self._current, self._next = Playing(self._next, step), None
        if self._current is None:
            return None
        action: FloatArray = self._current.chunk.actions[len(self._current.applied)]
        return action

    def applied(self, action: FloatArray) -> Playing | None:
        """Record what was applied; returns the chunk when this was its last step."""
        if self._current is None:
            return None
        self._current.applied.append(action)
        if self._current.left > 0:
            return None
        done, self._current = self._current, None
        return done

    def flush(self) -> Playing | None:
        """Drop the queue; returns what was being played."""
        playing, self._current, self._next = self._current, None, None
        return playing
