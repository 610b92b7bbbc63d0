"""The experience: steps of episodes, sampled as h-step windows that may start at any step.

A step knows the place of the step after it, so segments of several robots' episodes may arrive interleaved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softflow_learner.config import CHUNK_ENDS
from softflow_learner.images import Gallery
from softflow_learner.segments import EpisodeBook, OpenEpisode, Segment
from softflow_learner.storage import FAILED, HELD_OUT, OFFLINE, ONLINE, PARTITIONS, Storage

NOBODY = ""
"""Source of an episode in which nobody planned: the hand held its targets."""
ONLINE_SOURCES = ("policy", NOBODY)
"""Steps of any other source (teacher, teleop) are demonstrations."""


@dataclass(frozen=True)
class Batch:
    """Windows of m = min(h, steps to the episode's end) steps. Actions past the end repeat the last one."""

    states: Tensor
    """s_t, (B, S)."""
    actions: Tensor
    """x, (B, h, A), as applied; their first ones only if the replay was told so."""
    returns: Tensor
    """sum_{i<m} gamma^i r_{t+i}, (B,)."""
    discounts: Tensor
    """gamma^m (1 - terminated), (B,): a time-out bootstraps, a termination does not."""
    next_states: Tensor
    """s_{t+m}, (B, S)."""
    steps: Tensor
    """m, (B,) int64."""
    imitable: Tensor
    """The chunk may be learned by likelihood, (B,) bool: one hand applied it (the policy's, the teacher's or a
    human's, but not nobody's), and it does not run past the episode's end where the replay was told to drop those."""
    images: dict[str, Tensor] | None = None
    """Camera -> RGB image of s_t, (B, H, W, 3) uint8; None in a replay without cameras."""
    next_images: dict[str, Tensor] | None = None
    """The same of s_{t+m}."""

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """Some of the windows."""
        return Batch(
            **{f.name: _each(lambda t: t[rows], getattr(self, f.name)) for f in dataclasses.fields(self)}
        )

    @staticmethod
    def cat(first: Batch, second: Batch) -> Batch:
        names = [f.name for f in dataclasses.fields(Batch)]
        return Batch(
            **{n: _each(lambda a, b: torch.cat([a, b]), getattr(first, n), getattr(second, n)) for n in names}
        )


def _each(function: Callable[..., Tensor], *values: Any) -> Any:
    """The function of tensors, of dicts of tensors camera by camera, of None = None."""
    if values[0] is None:
        return None
    if isinstance(values[0], dict):
        return {name: function(*(v[name] for v in values)) for name in values[0]}
    return function(*values)


@dataclass(frozen=True)
class Stored:
    """The steps of one episode that are kept, the last n of those received."""

    start_step: int
    """Steps before them, forgotten."""
    states: NDArray[np.float32]
    """(n, S)."""
    next_states: NDArray[np.float32]
    """(n, S)."""
    actions: NDArray[np.float32]
    """(n, A)."""
    rewards: NDArray[np.float32]
    """(n,)."""
    interventions: NDArray[np.bool_]
    """(n,)."""
    terminated: NDArray[np.bool_]
    """(n,)."""
    partition: str
    images: dict[str, list[bytes]]
    """camera -> n+1 compressed images."""


class Replay:
    """Steps in flat arrays; four partitions: offline (demonstrations), online, held out, failed (demonstrations)."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        horizon: int,
        gamma: float,
        *,
        actions: int | None = None,
        capacity: int = 1_000_000,
        holdout_every: int = 0,
        chunk_end: str = "hold",
        directory: Path | None = None,
        cameras: Sequence[str] = (),
        image_size: int = 0,
    ) -> None:
        """`horizon` h [steps], `gamma` [1/step], `capacity` [steps]: beyond it the oldest online episodes go.

        A batch holds the first `actions` of a window, default all h (1 for a critic of single actions).
        Every `holdout_every`-th demonstration goes to the held-out partition, 0 = none. `chunk_end`: windows that
        run past the episode's end are "hold", padded by the last action, or "drop", not to be imitated.
        `directory` for the large arrays and the images, which are gone with the process; default: in memory.
        `cameras` whose images every segment must have, and batches hold; others' are passed over. They are kept as
        thumbnails of the side `image_size` [pixels], 0 = as they come.

        Raises ValueError for another `chunk_end` or a capacity that no memory holds, OSError without room on the disk.
        """
        if chunk_end not in CHUNK_ENDS:
            raise ValueError(f"chunk_end is {chunk_end!r}, allowed: {', '.join(CHUNK_ENDS)}")
        self._drop_ends = chunk_end == "drop"
        self.horizon, self.gamma, self.holdout_every = horizon, gamma, holdout_every
        self._actions = horizon if actions is None else actions
        self._weights = gamma ** np.arange(horizon + 1, dtype=np.float64)
        self._storage = Storage(state_dim, action_dim, capacity, directory=directory, cameras=len(cameras))
        self._gallery = Gallery(cameras, directory, size=image_size)
        self._book = EpisodeBook()
        self._demonstrations = 0
        self.online_steps = 0
        """Ever received, forgotten ones included."""

    # -- Writing

    def add_episode_segment(
        self,
        states: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        *,
        terminated: bool,
        truncated: bool,
        source: str,
        episode_id: str,
        final: bool | None = None,
        start_step: int | None = None,
        interventions: NDArray[Any] | None = None,
        images: Mapping[str, Sequence[bytes]] | None = None,
        failed: bool = False,
    ) -> int:
        """Append n consecutive transitions of an episode; returns n.

        Args:
            states: (n+1, S), the first one equal to the last one of the episode's previous segment.
            actions: (n, A) in [-1, 1], as applied.
            rewards: (n,).
            terminated: the last step ended the episode for good.
            truncated: the last step was cut off, e.g. by the time limit.
            source: "policy" (online), "" (online; nobody planned, so only a human's takeovers are to be imitated) or
                anything else (demonstration).
            episode_id: segments with the same one belong together.
            final: the episode ends here; default: terminated or truncated. Final and neither = truncated.
            start_step: of the segment within the episode, checked if given.
            interventions: (n,) bool, steps whose action a human applied; default: none. A window made of such steps
                is a demonstration; one that mixes them with others trains the critic only.
            images: camera -> n+1 compressed images, the first one that of the previous segment's last state.
            failed: a demonstration not to be imitated: only a critic is given its windows.

        Raises:
            SegmentError: wrong shape, type or number, out of order, of a finished episode. Nothing is stored then.
            ReplayFullError: no room, and no online steps to forget.
            OSError: no room on the disk for the images. Nothing is stored then.
        """
        ends = bool(terminated or truncated) if final is None else bool(final)
        segment = Segment.checked(
            states,
            actions,
            rewards,
            terminated=bool(terminated),
            final=ends,
            sizes=self._storage.sizes,
            interventions=interventions,
        )
        episode = self._book.match(episode_id, segment, start_step)
        kept = self._gallery.prepare(images, segment.steps + 1)
        self._make_room(segment.steps)
        positions = self._gallery.append(kept, episode.last_images) if self._gallery.cameras else None
        partition = ONLINE if source in ONLINE_SOURCES else FAILED if failed else OFFLINE
        places = self._append(episode, segment, partition, positions)
        self._storage.planned[places] = source != NOBODY
        self._book.update(episode_id, episode, places, segment.final)
        return segment.steps

    def _make_room(self, steps: int) -> None:
        store = self._storage
        if store.count + steps <= store.capacity:
            return
        gone = store.make_room(steps, self._book.heads())
        self._book.forget(store.episode[gone])
        self._gallery.forget(store.images[gone], store.next_images[gone])

    def _append(
        self, episode: OpenEpisode, segment: Segment, partition: int, images: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        if episode.steps == 0 and partition != ONLINE:
            self._demonstrations += 1
            episode.held_out = self.holdout_every > 0 and self._demonstrations % self.holdout_every == 0
        where = HELD_OUT if episode.held_out else partition
        places = self._storage.append(segment, where, episode.last, episode.number, images)
        episode.last_images = None if images is None else images[-1]
        episode.steps += segment.steps
        episode.last = int(places[-1]) if segment.steps else episode.last
        episode.last_state = segment.states[-1]
        # An ended episode's windows are all complete, an open one's but for the last h - 1.
        pending = np.concatenate([episode.pending, places])
        complete = len(pending) if segment.final else max(0, len(pending) - self.horizon + 1)
        self._storage.release(pending[:complete], self.horizon)
        episode.pending = pending[complete:]
        self.online_steps += segment.steps if partition == ONLINE else 0
        return places

    def relabel(self, episode_id: str, start_step: int, values: NDArray[Any], revision: int) -> int:
        """Later knowledge of an episode's rewards; returns the steps changed.

        Args:
            episode_id: of an episode that was received, open or ended.
            start_step: of the first value within it.
            values: new rewards, (n,).
            revision: a step takes it over only from a lower one; segments come with 0.

        Raises:
            ValueError: an unknown episode, steps that were not received, a reward that is not finite. Nothing
                changes then. Steps forgotten meanwhile are passed over.
        """
        kept, rewards = self._book.kept(episode_id), np.asarray(values, np.float64)
        places = kept.places()
        steps, end = kept.forgotten + len(places), start_step + len(rewards)
        if start_step < 0 or end > steps:
            raise ValueError(
                f"start_step is {start_step} with {len(rewards)} values, must lie within the {steps} steps of "
                f"episode {episode_id!r}"
            )
        if not np.isfinite(rewards).all():
            bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise ValueError(f"values[{bad}] is {rewards[bad]}, must be finite")
        first = max(start_step, kept.forgotten)
        rows = places[first - kept.forgotten : max(0, end - kept.forgotten)]
        return self._storage.relabel(rows, rewards[first - start_step :], revision)

    # -- Reading

    def size(self, partition: str | None = None) -> int:
        """Stored steps, of one partition ("offline", "online", "held_out") or of all."""
        return self._storage.count if partition is None else self._storage.stored(PARTITIONS.index(partition))

    def episodes(self) -> list[str]:
        """Ids of all episodes received, in the order of their beginnings."""
        return self._book.episodes()

    def episode(self, episode_id: str) -> Stored:
        """What is kept of an episode. Raises ValueError for an unknown one."""
        kept, store = self._book.kept(episode_id), self._storage
        rows = kept.places()
        return Stored(
            kept.forgotten,
            store.states[rows],
            store.next_states[rows],
            store.actions[rows],
            store.rewards[rows],
            store.interventions[rows],
            store.terminated[rows],
            PARTITIONS[store.partition[rows[0]]] if len(rows) else "",
            self._gallery.read(np.concatenate([store.images[rows], store.next_images[rows[-1:]]])),
        )

    @property
    def cameras(self) -> tuple[str, ...]:
        """Whose images are kept."""
        return self._gallery.cameras

    @property
    def image_bytes(self) -> int:
        """[bytes] of compressed images kept."""
        return self._gallery.size

    def sampleable(self, partition: str) -> int:
        """Windows to draw with a partition; "offline" has the takeovers of online episodes too."""
        return len(self._storage.ready(PARTITIONS.index(partition)))

    def states(self, partition: str = "offline") -> NDArray[np.float32]:
        """(N, S) all states of a partition, e.g. to fit the normaliser."""
        return self._storage.states[self._storage.of(PARTITIONS.index(partition))]

    def sample(
        self, batch: int, offline_fraction: float, rng: np.random.Generator, *, failures: bool = False
    ) -> Batch:
        """Uniform windows, `offline_fraction` of them demonstrations (all or none where there are no others).

        With `failures` the failed ones count among the demonstrations.

        Raises ValueError when there is nothing to sample.
        """
        offline, online = self._storage.ready(OFFLINE), self._storage.ready(ONLINE)
        if failures and self.sampleable("failed"):
            offline = np.concatenate([offline, self._storage.ready(FAILED)])
        if not len(offline) and not len(online):
            raise ValueError("replay has 0 windows to sample, must have at least 1")
        share = 0.0 if not len(offline) else 1.0 if not len(online) else offline_fraction
        first = round(batch * share)
        starts = [rng.choice(offline, first) if first else offline[:0]]
        starts.append(rng.choice(online, batch - first) if batch > first else online[:0])
        return self.windows(np.concatenate(starts))

    def windows(self, starts: NDArray[np.int64]) -> Batch:
        """The windows that start at these places."""
        store = self._storage
        places, inside = store.follow(starts, self.horizon)
        last, steps = places[:, -1], inside.sum(1)
        returns = (store.rewards[places] * inside) @ self._weights[: self.horizon]
        discounts = self._weights[steps] * ~store.terminated[last]
        return Batch(
            torch.from_numpy(store.states[starts]),
            torch.from_numpy(store.actions[places[:, : self._actions]]),
            torch.from_numpy(returns.astype(np.float32)),
            torch.from_numpy(discounts.astype(np.float32)),
            torch.from_numpy(store.next_states[last]),
            torch.from_numpy(steps),
            torch.from_numpy(self._imitable(places[:, : self._actions], inside[:, self._actions - 1])),
            self._decoded(store.images[starts]),
            self._decoded(store.next_images[last]),
        )

    def _decoded(self, positions: NDArray[np.int64]) -> dict[str, Tensor] | None:
        if not self._gallery.cameras:
            return None
        return {name: torch.from_numpy(images) for name, images in self._gallery.decode(positions).items()}

    def _imitable(self, places: NDArray[np.int64], whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """`Batch.imitable` of chunks at `places` (B, h); `whole` (B,): they end inside their episode."""
        by_human = self._storage.interventions[places].sum(1)
        planned = self._storage.planned[places[:, 0]]
        one_hand: NDArray[np.bool_] = ((by_human == 0) & planned) | (by_human == places.shape[1])
        return one_hand & whole if self._drop_ends else one_hand

    def held_out(self, max_weight: float = 0.25) -> tuple[Batch, NDArray[np.float64]]:
        """Windows of held-out episodes and their discounted returns to the episode's end, (N,).

        A return that a time-out cut off lacks its tail; it counts only where the tail's weight gamma^n is at
        most `max_weight`.
        """
        starts = self._storage.ready(HELD_OUT)
        total, weight = self._storage.returns_to_end(starts, self.gamma)
        usable = weight <= max_weight
        return self.windows(starts[usable]), total[usable]
