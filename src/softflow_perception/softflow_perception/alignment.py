"""Pairs samples of several sensors by stamp, with a bounded skew."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
LATE_AFTER = 1.0
"""[s] that samples of the leading sensor may wait, then who keeps them waiting is named."""


@dataclass(frozen=True)
class Aligned(Generic[T]):
    """One sample of each sensor. Stamps are [ns], robot clock."""

    samples: dict[str, T]
    stamps: dict[str, int]

    @property
    def skew(self) -> float:
        """[s] newest minus oldest stamp."""
        return (max(self.stamps.values()) - min(self.stamps.values())) / 1e9


class Aligner(Generic[T]):
    """Emits a set whenever the leading sensor has a partner from every other sensor within `max_skew` [s].

    A sample of the leading sensor waits for late partners; it is given up when a newer one is completed first, or when
    `depth` newer ones wait.
    """

    def __init__(
        self,
        leading: str,
        others: tuple[str, ...],
        max_skew: float,
        depth: int = 10,
        skews: Mapping[str, float] | None = None,
    ) -> None:
        """`skews`: of the sensors that have a bound of their own."""
        if max_skew <= 0:
            raise ValueError(f"max_skew is {max_skew} s, must be above 0")
        self.leading, self.others, self.max_skew = leading, others, max_skew
        self._skews = {name: (skews or {}).get(name, max_skew) for name in others}
        self._queues: dict[str, deque[tuple[int, T]]] = {
            name: deque(maxlen=depth) for name in (leading, *others)
        }
        self.given_up = 0
        self.late: Counter[str] = Counter()
        """Sensor -> samples of the leading one that were given up for want of its."""

    def add(self, sensor: str, stamp: int, sample: T) -> list[Aligned[T]]:
        """Add a sample; returns the sets that it completed, oldest first.

        Raises:
            ValueError: unknown sensor.
        """
        if sensor not in self._queues:
            raise ValueError(f"sensor {sensor!r} is unknown; known: {', '.join(self._queues)}")
        queue, leading = self._queues[sensor], self._queues[self.leading]
        if queue and queue[-1][0] == stamp:
            # A world that waits repeats its state: that must not push out those that wait, too.
            queue.pop()
        if sensor == self.leading and len(leading) == leading.maxlen:
            self._give_up([leading[0]])
        queue.append((stamp, sample))
        complete: list[Aligned[T]] = []
        waiting: list[tuple[int, T]] = []
        for stamp, sample in leading:
            partners = self._partners(stamp)
            if partners is None:
                waiting.append((stamp, sample))
                continue
            # What still waits is older than a set that is complete: its partner will not come.
            self._give_up(waiting)
            waiting.clear()
            stamps = {self.leading: stamp, **{name: s for name, (s, _) in partners.items()}}
            samples = {self.leading: sample, **{name: v for name, (_, v) in partners.items()}}
            complete.append(Aligned(samples, stamps))
        leading.clear()
        leading.extend(waiting)
        return complete

    def missing(self) -> dict[str, str]:
        """Which sensors the newest waiting sample of the leading one has no partner from, and why, in words."""
        leading = self._queues[self.leading]
        return (
            {name: self._why(name, leading[-1][0]) for name in self._late_for(leading[-1][0])}
            if leading
            else {}
        )

    def _why(self, name: str, stamp: int) -> str:
        near = self._nearest(name, stamp)
        return f"{(near[0] - stamp) / 1e9:+.3f} s off, limit {self._skews[name]} s" if near else "no sample"

    def _give_up(self, waiting: Sequence[tuple[int, T]]) -> None:
        self.given_up += len(waiting)
        for stamp, _ in waiting:
            self.late.update(self._late_for(stamp))

    def _late_for(self, stamp: int) -> list[str]:
        return [name for name in self.others if self._partner(name, stamp) is None]

    def _partners(self, stamp: int) -> dict[str, tuple[int, T]] | None:
        found: dict[str, tuple[int, T]] = {}
        for name in self.others:
            partner = self._partner(name, stamp)
            if partner is None:
                return None
            found[name] = partner
        return found

    def _partner(self, name: str, stamp: int) -> tuple[int, T] | None:
        near = self._nearest(name, stamp)
        return near if near and abs(near[0] - stamp) <= self._skews[name] * 1e9 else None

    def _nearest(self, name: str, stamp: int) -> tuple[int, T] | None:
        return min(self._queues[name], key=lambda item: abs(item[0] - stamp), default=None)


@dataclass
class Patience:
    """Since when samples of the leading sensor wait, and when the others were last heard. [s], monotonic clock."""

    leading: str
    _heard: dict[str, float] = field(default_factory=dict)
    _since: float | None = None

    def heard(self, sensor: str, now: float) -> None:
        """A sample has come."""
        self._heard[sensor] = now
        if sensor == self.leading and self._since is None:
            self._since = now

    def paired(self) -> None:
        """A set was complete."""
        self._since = None

    def fault(self, missing: Mapping[str, str], now: float) -> str:
        """Which sensors keep the leading one waiting, and since when; empty while that is not long.

        `missing` as `Aligner.missing` says it.
        """
        if self._since is None or now - self._since <= LATE_AFTER or not missing:
            return ""
        said = [
            f"{name} last came {now - self._heard[name]:.1f} s ago ({why})"
            if name in self._heard
            else f"{name} never came"
            for name, why in missing.items()
        ]
        return f"no observation for {now - self._since:.1f} s: {', '.join(said)}"
