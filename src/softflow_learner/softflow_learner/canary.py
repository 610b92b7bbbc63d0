"""Whether a candidate plays well enough to be put in force, judged by whole episodes. Plain Python."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OPEN_EPISODES = 64
"""Episodes whose end has not come yet, at most; the oldest makes way."""


@dataclass(frozen=True)
class Part:
    """A segment of an episode, as it came from a robot."""

    episode_id: str
    start_step: int
    versions: Sequence[int]
    """Of the weights behind each step, 0 = none."""
    rewards: Sequence[float]
    final: bool
    intervened: bool = False
    """Whether a human applied any of its actions."""


@dataclass(frozen=True)
class Margin:
    """By how much a candidate's mean return may be lower."""

    fraction: float
    """of the magnitude of the active version's mean return"""
    absolute: float = 0.0
    """in the units of a return; > 0 takes the place of the fraction"""

    def below(self, mean: float) -> float:
        """The lowest mean return that will do."""
        return mean - (self.absolute if self.absolute > 0 else self.fraction * abs(mean))


@dataclass(frozen=True)
class Verdict:
    """How the canary episodes came out."""

    promoted: bool
    reason: str


@dataclass
class _Open:
    versions: set[int]
    total: float = 0.0
    steps: int = 0
    counts: bool = True


class Canary:
    """Collects returns of the candidate and of the active version; episodes that both played in do not count.

    Episodes of several robots may come mixed. An episode counts that was seen whole, under one version, without
    a human's hand.
    """

    def __init__(self, candidate: int, active: int, episodes: int, margin: Margin) -> None:
        if episodes < 1:
            raise ValueError(f"episodes is {episodes}, must be at least 1")
        self.candidate, self.active = candidate, active
        self.episodes, self.margin = episodes, margin
        self.returns: dict[int, list[float]] = {candidate: [], active: []}
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._refused: Verdict | None = None

    def refuse(self, reason: str) -> None:
        """The candidate has failed, whatever the returns."""
        self._refused = Verdict(False, reason)

    def add(self, part: Part) -> None:
        """The next part of an episode."""
        episode = self._open.setdefault(part.episode_id, _Open(set()))
        whole = part.start_step == episode.steps
        episode.counts = episode.counts and whole and not part.intervened
        # 0 is a step for which no chunk came in time; it says nothing of the weights.
        episode.versions.update(int(v) for v in part.versions if v)
        episode.total += float(np.sum(part.rewards, dtype=np.float64))
        episode.steps += len(part.rewards)
        if part.final:
            del self._open[part.episode_id]
            self._count(episode)
        elif len(self._open) > OPEN_EPISODES:
            self._open.popitem(last=False)

    def _count(self, episode: _Open) -> None:
        if not episode.counts or len(episode.versions) != 1:
            return
        (version,) = episode.versions
        found = self.returns.get(version)
        if found is not None and len(found) < self.episodes:
            found.append(episode.total)

    def verdict(self) -> Verdict | None:
        """None until both have played their episodes, or the candidate was refused."""
        if self._refused is not None:
            return self._refused
        tried, known = self.returns[self.candidate], self.returns[self.active]
        if min(len(tried), len(known)) < self.episodes:
            return None
        mean, reference = float(np.mean(tried)), float(np.mean(known))
        bound = self.margin.below(reference)
        promoted = mean >= bound  # a NaN promotes nobody
        return Verdict(
            promoted,
            f"mean return {mean:.4g} of version {self.candidate} over {len(tried)} episodes, "
            f"{reference:.4g} of version {self.active} over {len(known)}: "
            f"{'at least' if promoted else 'must be at least'} {bound:.4g}",
        )
