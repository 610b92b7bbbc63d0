"""Rewards given after the fact, beside a bag: a file that only grows, one checked line a revision. Plain Python."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from softflow_node.files import fsync

FILE = "labels"
SOURCES = ("task", "vision", "human", "classifier")


class LabelError(ValueError):
    """Labels that are refused, or a file of them that is damaged; the text names what, value and bound."""


@dataclass(frozen=True)
class Label:
    """One revision of the rewards from step `start` on."""

    revision: int
    start: int
    values: tuple[float, ...]
    """float32 numbers"""
    source: str
    confidence: float
    """0..1"""
    stamp: int
    """[ns] Unix time"""

    @property
    def end(self) -> int:
        """The first step that it says nothing about."""
        return self.start + len(self.values)


def checked(start: int, values: Sequence[float], source: str, confidence: float, steps: int) -> Label:
    """A label for an episode of `steps` steps, without a revision yet.

    Raises:
        LabelError: names field, value and bound.
    """
    with np.errstate(over="ignore"):  # too large becomes infinite, and is refused below
        numbers = np.asarray(values, dtype=np.float32)
    label = Label(0, start, tuple(numbers.tolist()), source, float(confidence), time.time_ns())
    if not len(numbers):
        raise LabelError("values is empty, must hold at least one reward")
    if not np.isfinite(numbers).all():
        raise LabelError(f"values[{int(np.argmin(np.isfinite(numbers)))}] is not a finite float32")
    if start < 0 or label.end > steps:
        raise LabelError(f"start_step is {start} with {len(numbers)} values, the episode has {steps} steps")
    if source not in SOURCES:
        raise LabelError(f"source is {source!r}, allowed: {', '.join(SOURCES)}")
    if not (math.isfinite(confidence) and 0.0 <= confidence <= 1.0):
        raise LabelError(f"confidence is {confidence!r}, must be in [0, 1]")
    return label


def read_labels(bag: Path) -> list[Label]:
    """All revisions of a bag, oldest first. A last line that a crash cut off was never confirmed and is left out.

    Raises:
        LabelError: a line is damaged.
    """
    try:
        return _parse(bag, (bag / FILE).read_bytes())
    except FileNotFoundError:
        return []


def _parse(bag: Path, data: bytes) -> list[Label]:
    labels = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        checksum, _, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            raise LabelError(f"{bag / FILE}: line {number} is damaged: its checksum is wrong")
        fields = json.loads(text)
        labels.append(Label(**{**fields, "values": tuple(fields["values"])}))
    return labels


def append_label(
    bag: Path,
    steps: int,
    recorded: int,
    start: int,
    values: Sequence[float],
    source: str,
    confidence: float,
) -> Label:
    """Add a revision; on the disk when this returns.

    Args:
        bag: directory of the closed bag.
        steps: of its episode.
        recorded: highest revision in the bag itself.
        start: first step that is labelled.
        values: float32 rewards, one a step.
        source: one of SOURCES.
        confidence: 0..1.

    Raises:
        LabelError: names field, value and bound; or the file is damaged.
    """
    label = checked(start, values, source, confidence, steps)
    with (bag / FILE).open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the command line and a running recorder
        file.seek(0)
        data = file.read()
        revisions = [label.revision for label in _parse(bag, data)]
        label = replace(label, revision=max(recorded, *revisions, 0) + 1)
        file.truncate(data.rfind(b"\n") + 1)
        text = json.dumps(asdict(label)).encode()
        file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        file.flush()
        os.fsync(file.fileno())
    fsync(bag)
    return label
