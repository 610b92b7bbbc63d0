"""Compressed images of an episode's cameras: one for each state. Plain Python."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from softflow_node.topics import camera_names, split_reference

KIND = "sensor_msgs/msg/CompressedImage"


class MissingImageError(ValueError):
    """A state has no image; the text names camera and step."""


@dataclass
class ImageTrack:
    """Images by topic and stamp [ns]; each is kept once, however many states it stands for."""

    stamps: dict[str, list[int]] = field(default_factory=dict)
    """topic -> stamps, ascending"""
    _data: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def add(self, topic: str, stamp: int, data: bytes) -> bool:
        """Add an image; one that came before is ignored. Whether it is new."""
        if (topic, stamp) in self._data:
            return False
        insort(self.stamps.setdefault(topic, []), stamp)
        self._data[topic, stamp] = data
        return True

    def holds(self, references: Iterable[str]) -> bool:
        """Whether all images named `topic@nanoseconds` are there."""
        return all(split_reference(reference) in self._data for reference in references)

    def lacks(self, references: Iterable[str]) -> bool:
        """Whether an image named `topic@nanoseconds` is not there, of a topic that is recorded."""
        return any(
            topic in self.stamps and (topic, stamp) not in self._data
            for topic, stamp in map(split_reference, references)
        )

    def select(
        self, stamps: Sequence[int], references: Sequence[Sequence[str]]
    ) -> dict[str, tuple[bytes, ...]]:
        """Camera -> one image a state: the one that the observation names; where it names none, the newest not newer.

        Args:
            stamps: of the observations [ns].
            references: of each observation, `topic@nanoseconds`.

        Raises:
            MissingImageError: a state before a camera's first image.
        """
        names = camera_names(self.stamps)
        return {
            names[topic]: tuple(
                self._data[topic, self._pick(topic, step, stamp, named)]
                for step, (stamp, named) in enumerate(zip(stamps, references, strict=True))
            )
            for topic in self.stamps
        }

    def _pick(self, topic: str, step: int, stamp: int, references: Sequence[str]) -> int:
        for name, wanted in map(split_reference, references):
            if name == topic and (topic, wanted) in self._data:
                return wanted
        at = bisect_right(self.stamps[topic], stamp)
        if at == 0:
            raise MissingImageError(f"image of {topic} for step {step}: the first is newer")
        return self.stamps[topic][at - 1]
