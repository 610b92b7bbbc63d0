"""Experience on the learner's disk, each item exactly once. Plain Python.

An item is acknowledged only after it was forced to the disk; what comes twice is dropped by its number.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from softflow_node.files import write_atomically

SUFFIX = ".segment"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True)
class Pushed:
    """One item as it was pushed."""

    robot: str
    boot: str
    seq: int
    crc32: int
    payload: bytes


class JournalError(ValueError):
    """An item is refused; the text names field, value and bound."""


class Journal:
    """Directory layout: <robot>/<boot>/<seq>.segment."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._newest: dict[tuple[str, str], int] = {}
        # Robot's directory -> items, of all its boots.
        self._stored = Counter(path.parts[-3] for path in directory.glob(f"*/*/*{SUFFIX}"))

    def stored(self) -> dict[str, int]:
        """Items of each robot, by its namespace."""
        return {f"/{name.replace('.', '/')}": count for name, count in sorted(self._stored.items())}

    def acknowledged(self, robot: str, boot: str) -> int:
        """Every item of this recorder up to this number is on the disk; 0 = none.

        Raises:
            JournalError: the names cannot be directory names.
        """
        key = self._key(robot, boot)
        if key not in self._newest:
            folder = self._directory.joinpath(*key)
            numbers = [int(p.stem) for p in folder.glob(f"*{SUFFIX}")]
            self._newest[key] = max(numbers, default=0)
        return self._newest[key]

    def add(self, item: Pushed) -> bool:
        """Store an item durably; False if it is here already.

        Raises:
            JournalError: wrong crc, or a gap in the numbers.
        """
        newest = self.acknowledged(item.robot, item.boot)
        if item.seq <= newest:
            return False
        if item.seq != newest + 1:
            raise JournalError(f"seq is {item.seq}, must be {newest + 1}: items before it are missing")
        crc = zlib.crc32(item.payload)
        if crc != item.crc32:
            raise JournalError(f"crc32 of item {item.seq} is {crc}, the item says {item.crc32}")
        key = self._key(item.robot, item.boot)
        folder = self._directory.joinpath(*key)
        write_atomically(folder / f"{item.seq:010d}{SUFFIX}", item.payload)
        self._newest[key] = item.seq
        self._stored[key[0]] += 1
        return True

    def payloads(self) -> Iterator[bytes]:
        """Everything that is stored, in order for each recorder."""
        for path in sorted(self._directory.glob(f"*/*/*{SUFFIX}")):
            yield path.read_bytes()

    @staticmethod
    def _key(robot: str, boot: str) -> tuple[str, str]:
        name = robot.strip("/").replace("/", ".") or "root"
        for field, value in (("robot", name), ("boot", boot)):
            if not _NAME.fullmatch(value) or value.startswith("."):
                raise JournalError(f"{field} is {value!r}, must match {_NAME.pattern}")
        return name, boot
