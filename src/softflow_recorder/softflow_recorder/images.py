"""Compressed images of an episode's cameras: one for each state. Plain Python."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

KIND = "sensor_msgs/msg/CompressedImage"
_TRANSPORT = {"compressed", "image", "image_raw", "image_rect", "image_color", "image_rect_color"}
"""Parts of a topic's name that say how an image travels, not which camera made it."""


class MissingImageError(ValueError):
    """A state has no image; the text names camera and step."""


def parse_topics(text: str) -> tuple[str, ...]:
    """Topics of a comma-separated text.

    Raises:
        ValueError: one is named twice.
    """
    topics = tuple(part.strip() for part in text.split(",") if part.strip())
    if len(set(topics)) < len(topics):
        raise ValueError(f"parameter 'image_topics' is {text!r}, names a topic twice")
    return topics


def camera_names(topics: Iterable[str]) -> dict[str, str]:
    """Topic -> the last part of it that names a camera; the whole topic where two would have the same name."""
    short = {}
    for topic in topics:
        parts = [part for part in topic.split("/") if part and part not in _TRANSPORT]
        short[topic] = parts[-1] if parts else topic
    taken = list(short.values())
    return {topic: name if taken.count(name) == 1 else topic for topic, name in short.items()}


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
        return all(_split(reference) in self._data for reference in references)

    def lacks(self, references: Iterable[str]) -> bool:
        """Whether an image named `topic@nanoseconds` is not there, of a topic that is recorded."""
        return any(
            topic in self.stamps and (topic, stamp) not in self._data
            for topic, stamp in map(_split, references)
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
        for name, wanted in map(_split, references):
            if name == topic and (topic, wanted) in self._data:
                return wanted
        at = bisect_right(self.stamps[topic], stamp)
        if at == 0:
            raise MissingImageError(f"image of {topic} for step {step}: the first is newer")
        return self.stamps[topic][at - 1]


def _split(reference: str) -> tuple[str, int]:
    topic, _, stamp = reference.rpartition("@")
    return topic, int(stamp) if stamp.isdecimal() else -1
