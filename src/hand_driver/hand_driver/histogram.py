"""Durations in fixed buckets: adding takes a constant time, the whole a constant amount of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

PER_OCTAVE = 16
"""Buckets between a duration and its double: a quantile is at most 4.4 % above the true one."""
SMALLEST = 1e-6
"""[s] that the first bucket ends at."""
OCTAVES = 26
"""From 1 us to 67 s; what is longer is counted in the last bucket."""
BUCKETS = PER_OCTAVE * OCTAVES + 1
QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def bucket_end(index: int) -> float:
    """Longest duration [s] that belongs to a bucket."""
    return float(SMALLEST * 2.0 ** (index / PER_OCTAVE))


class Histogram:
    """Counts of durations [s]. One thread adds; others may read, and then miss what is being added."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._longest = 0.0

    @classmethod
    def parse(cls, text: str, longest: float = math.inf) -> Histogram:
        """Of what `buckets` said, where no duration was longer than `longest` [s]. Raises ValueError."""
        made = cls()
        for entry in text.split():
            index, _, count = entry.partition(":")
            if not (index.isdecimal() and count.isdecimal() and int(index) < BUCKETS):
                raise ValueError(f"buckets: {entry!r}, must be INDEX:COUNT with an index below {BUCKETS}")
            made._counts[int(index)] = int(count)
        last = max((i for i, count in enumerate(made._counts) if count), default=None)
        made._longest = 0.0 if last is None else min(bucket_end(last), longest)
        return made

    def add(self, seconds: float) -> None:
        """Count a duration; one below zero as zero, one that is no number not at all."""
        if seconds <= SMALLEST:
            self._counts[0] += 1
        elif seconds < math.inf:
            index = math.ceil(PER_OCTAVE * math.log2(seconds / SMALLEST))
            self._counts[min(index, BUCKETS - 1)] += 1
            self._longest = max(self._longest, seconds)

    @property
    def count(self) -> int:
        """Durations so far."""
        return sum(self._counts)

    @property
    def longest(self) -> float:
        """The longest duration [s]; 0 when there are none."""
        return self._longest

    def quantile(self, share: float) -> float:
        """Shortest duration [s] that at least `share` (0..1) of all do not exceed, up to the width of a bucket.

        NaN when there are none.
        """
        counts = list(self._counts)
        rank = max(1, math.ceil(share * sum(counts)))
        for index, count in enumerate(counts):
            rank -= count
            if rank <= 0:
                return min(bucket_end(index), self._longest) if index else SMALLEST
        return math.nan

    def buckets(self) -> str:
        """Every count that is not 0, as `INDEX:COUNT` with blanks between them."""
        return " ".join(f"{index}:{count}" for index, count in enumerate(self._counts) if count)

    def since(self, before: Histogram) -> Histogram:
        """What was added after a copy was taken. Raises ValueError when `before` is no part of this one."""
        made = Histogram()
        made._counts = [now - then for now, then in zip(self._counts, before._counts, strict=True)]
        if min(made._counts) < 0:
            raise ValueError("the counts began anew meanwhile")
        last = max((i for i, count in enumerate(made._counts) if count), default=None)
        made._longest = 0.0 if last is None else min(bucket_end(last), self._longest)
        return made

    def figures(self, name: str) -> Iterator[tuple[str, str]]:
        """Keys and values for /diagnostics: quantiles and longest [us], the buckets."""
        for key, share in QUANTILES.items():
            if self.count:
                yield f"{name}_{key}_us", str(round(1e6 * self.quantile(share)))
        yield f"{name}_max_us", str(round(1e6 * self._longest))
        yield f"{name}_buckets", self.buckets()


def read_figures(name: str, said: Mapping[str, str]) -> Histogram:
    """The histogram of that name from the key values of /diagnostics; empty where there is none. Raises ValueError."""
    longest = float(said.get(f"{name}_max_us", "inf")) / 1e6
    return Histogram.parse(said.get(f"{name}_buckets", ""), longest)
