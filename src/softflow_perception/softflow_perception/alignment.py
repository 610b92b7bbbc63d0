"""Pairs samples of several sensors by stamp, with a bounded skew."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


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

    A sample of the leading sensor waits for late partners; it is given up when a newer one is completed first.
    """

    def __init__(self, leading: str, others: tuple[str, ...], max_skew: float, depth: int = 10) -> None:
        if max_skew <= 0:
            raise ValueError(f"max_skew is {max_skew} s, must be above 0")
        self.leading, self.others, self.max_skew = leading, others, max_skew
        self._queues: dict[str, deque[tuple[int, T]]] = {
            name: deque(maxlen=depth) for name in (leading, *others)
        }
        self.given_up = 0

    def add(self, sensor: str, stamp: int, sample: T) -> list[Aligned[T]]:
        """Add a sample; returns the sets that it completed, oldest first.

        Raises:
            ValueError: unknown sensor.
        """
        if sensor not in self._queues:
            raise ValueError(f"sensor {sensor!r} is unknown; known: {', '.join(self._queues)}")
        self._queues[sensor].append((stamp, sample))
        leading = self._queues[self.leading]
        complete: list[Aligned[T]] = []
        waiting: list[tuple[int, T]] = []
        for stamp, sample in leading:
            partners = self._partners(stamp)
            if partners is None:
                waiting.append((stamp, sample))
                continue
            # What still waits is older than a set that is complete: its partner will not come.
            self.given_up += len(waiting)
            waiting.clear()
            stamps = {self.leading: stamp, **{name: s for name, (s, _) in partners.items()}}
            samples = {self.leading: sample, **{name: v for name, (_, v) in partners.items()}}
            complete.append(Aligned(samples, stamps))
        leading.clear()
        leading.extend(waiting)
        return complete

    def _partners(self, stamp: int) -> dict[str, tuple[int, T]] | None:
        found: dict[str, tuple[int, T]] = {}
        for name in self.others:
            near = min(self._queues[name], key=lambda item: abs(item[0] - stamp), default=None)
            if near is None or abs(near[0] - stamp) > self.max_skew * 1e9:
                return None
            found[name] = near
        return found
