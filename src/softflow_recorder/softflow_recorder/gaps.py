"""Messages that never came, seen in the numbers that they carry. Plain Python."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Gaps:
    """Counts, for each topic of an episode, the numbers that were left out."""

    def __init__(self) -> None:
        self._missing: Counter[str] = Counter()
        self._last: dict[tuple[str, str], int] = {}
        self._planned: set[int] = set()
        self._reported: set[int] = set()

    @property
    def missing(self) -> dict[str, int]:
        """Topic -> messages that are known to be missing; topics without are left out."""
        counts = self._missing + Counter(action_chunk=len(self._reported - self._planned))
        return dict(sorted(counts.items()))

    def add(self, topic: str, message: Any) -> None:
        """Look at a message by the last part of its topic; those that are not numbered are passed over."""
        if topic in ("hand_state", "observation", "object_state"):
            self._follow(topic, getattr(message, "object_name", ""), message.step)
        elif topic == "action_chunk":
            self._planned.add(message.chunk_id)
        elif topic == "chunk_result":
            self._reported.add(message.chunk_id)

    def _follow(self, topic: str, name: str, number: int) -> None:
        last = self._last.get((topic, name), -1)
        # A number that was seen already says nothing: a world that waits repeats its state.
        if number > last:
            self._last[topic, name] = number
            self._missing[topic] += number - last - 1
