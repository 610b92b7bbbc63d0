"""Experience on the learner's disk, each step and label exactly once. Plain Python.

One file of records in the order in which they came. What came is acknowledged only after it was forced to the disk.
An item that comes twice is dropped by its number; what a recorder hands over anew under other numbers, because this
or another learner had lost something, by what it is about: of that only the number is noted.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from softflow_node.files import fsync

FILE = "journal"
SEGMENT, LABEL = 0, 1
"""ExperienceItem.kind"""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_MAGIC = b"SFJ1"
_HEAD = struct.Struct("<4sIII")
"""Magic, bytes of the header, bytes of the payload, crc32 of both with their lengths."""


class About(NamedTuple):
    """What an item is about, apart from its number."""

    episode_id: str
    start: int
    """First step of a segment; revision of a label."""
    stop: int
    """One after its last step; 0 for a label."""


@dataclass(frozen=True)
class Pushed:
    """One item as it was pushed."""

    robot: str
    boot: str
    seq: int
    crc32: int
    payload: bytes
    kind: int = SEGMENT
    about: About | None = None
    """None: cannot be told, so it is kept as it came."""


class Stored(NamedTuple):
    """One item as it is read back."""

    kind: int
    payload: bytes


@dataclass(frozen=True)
class Added:
    """What became of the items of one call."""

    new: list[Pushed] = field(default_factory=list)
    """To be learned from."""
    repeated: int = 0
    """That were here, by number or by what they are about."""
    error: str = ""
    """Why the first of the others was refused; empty if none was."""


class JournalError(ValueError):
    """An item is refused; the text names field, value and bound."""


@dataclass(frozen=True)
class _Header:
    robot: str
    boot: str
    seq: int
    kind: int
    about: About | None
    repeated: bool

    def encode(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> _Header:
        values = json.loads(data)
        about = About(*values.pop("about")) if values["about"] else values.pop("about")
        return cls(**values, about=about)


class _Index:
    """What is there, by number and by what it is about."""

    def __init__(self) -> None:
        self.newest: dict[tuple[str, str], int] = {}
        self._steps: dict[str, int] = {}
        self._labels: set[tuple[str, int]] = set()

    def take(self, header: _Header) -> None:
        key = header.robot, header.boot
        if header.seq == self.newest.get(key, 0) + 1:
            self.newest[key] = header.seq
        if header.about is None or header.repeated:
            return
        episode, start, stop = header.about
        if header.kind == LABEL:
            self._labels.add((episode, start))
        elif start <= self._steps.get(episode, 0):  # a gap is no part of what is there
            self._steps[episode] = max(stop, self._steps.get(episode, 0))

    def holds(self, item: Pushed) -> bool:
        if item.about is None:
            return False
        episode, start, stop = item.about
        if item.kind == LABEL:
            return (episode, start) in self._labels
        return stop <= self._steps.get(episode, 0)


class Journal:
    """A file `journal` in its directory. What a loss of power left of a last record is cut off at the start.

    A record whose bytes were changed is left out, and its number is not acknowledged any more, nor those after it:
    the recorder then hands everything over anew, and what is here is dropped.
    """

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            OSError: the file cannot be read or cut off.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / FILE
        self.torn_bytes = 0
        """Cut off at the start."""
        self.damaged = 0
        """Places at which bytes were changed."""
        self._path.touch()
        fsync(directory)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND)
        self._load()

    def acknowledged(self, robot: str, boot: str) -> int:
        """Every item of this recorder up to this number is on the disk; 0 = none.

        Raises:
            JournalError: names that no recorder has.
        """
        _check_names(robot, boot)
        return self._index.newest.get((robot, boot), 0)

    def robots(self) -> dict[str, int]:
        """Robot -> its items, of all boots."""
        counts: Counter[str] = Counter()
        for (robot, _), newest in self._index.newest.items():
            counts[robot] += newest
        return dict(sorted(counts.items()))

    def add(self, items: Sequence[Pushed]) -> Added:
        """Store items up to the first that is refused, and force them to the disk together.

        Raises:
            OSError: nothing of them is stored.
        """
        new: list[Pushed] = []
        repeated, error = 0, ""
        try:
            for item in items:
                try:
                    is_new = self._append(item)
                except JournalError as why:
                    error = str(why)
                    break
                repeated += not is_new
                if is_new:
                    new.append(item)
            os.fsync(self._file)
        except OSError:
            # What a failed fsync has left of the pages is unknown: back to what is on the disk.
            os.ftruncate(self._file, self._size)
            self._load()
            raise
        self._size = os.fstat(self._file).st_size
        return Added(new, repeated, error)

    def stored(self) -> Iterator[Stored]:
        """Everything that is there, in the order in which it came."""
        return read_journal(self._path.parent)

    def close(self) -> None:
        """Nothing can be added any more."""
        os.close(self._file)

    def _append(self, item: Pushed) -> bool:
        """Write a record, not yet forced to the disk; False for what is here already."""
        newest = self.acknowledged(item.robot, item.boot)
        if item.seq <= newest:
            return False
        if item.seq != newest + 1:
            raise JournalError(f"seq is {item.seq}, must be {newest + 1}: items before it are missing")
        crc = zlib.crc32(item.payload)
        if crc != item.crc32:
            raise JournalError(f"crc32 of item {item.seq} is {crc}, the item says {item.crc32}")
        known = self._index.holds(item)
        header = _Header(item.robot, item.boot, item.seq, item.kind, item.about, known)
        _write(self._file, _encode(header, b"" if known else item.payload))
        self._index.take(header)
        return not known

    def _load(self) -> None:
        self._index = _Index()
        self._size = self.damaged = 0
        for header, _, place in _records(self._path):
            self._index.take(header)
            self.damaged += place.start > self._size
            self._size = place.stop
        torn = os.fstat(self._file).st_size - self._size
        if torn:
            self.torn_bytes += torn
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)


def read_journal(directory: Path) -> Iterator[Stored]:
    """Everything that is there, in the order in which it came; changes nothing, so a learner may be writing."""
    for header, payload, _ in _records(directory / FILE):
        if not header.repeated:
            yield Stored(header.kind, payload)


def _records(path: Path) -> Iterator[tuple[_Header, bytes, range]]:
    """All sound records and where they are."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = 0
            while (at := data.find(_MAGIC, at)) >= 0:
                record = _decode(data, at)
                if record is None:
                    at += 1
                    continue
                header, payload, stop = record
                yield header, payload, range(at, stop)
                at = stop


def _encode(header: _Header, payload: bytes) -> bytes:
    text = header.encode()
    lengths = struct.pack("<II", len(text), len(payload))
    crc = zlib.crc32(payload, zlib.crc32(text, zlib.crc32(lengths)))
    return _HEAD.pack(_MAGIC, len(text), len(payload), crc) + text + payload


def _decode(data: mmap.mmap, at: int) -> tuple[_Header, bytes, int] | None:
    """Header, payload and end of the record that begins there; None if there is none in full."""
    if at + _HEAD.size > len(data):
        return None
    _, text_size, payload_size, crc = _HEAD.unpack_from(data, at)
    middle = at + _HEAD.size + text_size
    end = middle + payload_size
    if end > len(data):
        return None
    text, payload = data[at + _HEAD.size : middle], data[middle:end]
    lengths = struct.pack("<II", text_size, payload_size)
    if zlib.crc32(payload, zlib.crc32(text, zlib.crc32(lengths))) != crc:
        return None
    return _Header.decode(text), payload, end


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _check_names(robot: str, boot: str) -> None:
    name = robot.strip("/").replace("/", ".") or "root"
    for field_name, value in (("robot", name), ("boot", boot)):
        if not _NAME.fullmatch(value) or value.startswith("."):
            raise JournalError(f"{field_name} is {value!r}, must match {_NAME.pattern}")
