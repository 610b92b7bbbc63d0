"""Names of image topics, and of the cameras behind them. Plain Python."""

from __future__ import annotations

from collections.abc import Iterable

_TRANSPORT = {"compressed", "image", "image_raw", "image_rect", "image_color", "image_rect_color"}
"""Parts of a topic's name that say how an image travels, not which camera made it."""


def parse_topics(text: str) -> tuple[str, ...]:
    """Topics of a comma-separated text.

    Raises:
        ValueError: one is named twice.
    """
    topics = tuple(part.strip() for part in text.split(",") if part.strip())
    if len(set(topics)) < len(topics):
        raise ValueError(f"parameter 'image_topics' is {text!r}, names a topic twice")
    return topics


def parse_cameras(text: str) -> tuple[str, ...]:
    """Names of cameras with + between them; none of an empty text.

    Raises:
        ValueError: one is named twice, or is no name.
    """
    names = tuple(text.split("+")) if text else ()
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        raise ValueError(f"cameras is {text!r}, must be different names with + between them")
    return names


def camera_names(topics: Iterable[str]) -> dict[str, str]:
    """Topic -> the last part of it that names a camera; the whole topic where two would have the same name."""
    short = {}
    for topic in topics:
        parts = [part for part in topic.split("/") if part and part not in _TRANSPORT]
        short[topic] = parts[-1] if parts else topic
    taken = list(short.values())
    return {topic: name if taken.count(name) == 1 else topic for topic, name in short.items()}


def split_reference(reference: str) -> tuple[str, int]:
    """Topic and stamp [ns] of an image that an observation names, `topic@nanoseconds`; -1 for another form."""
    topic, _, stamp = reference.rpartition("@")
    return topic, int(stamp) if stamp.isdecimal() else -1
