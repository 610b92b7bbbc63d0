"""Experience that waits for the learner, on disk. An item leaves only when it was acknowledged."""

from __future__ import annotations

import errno
import shutil
import uuid
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from softflow_node.files import write_atomically

SUFFIX = ".item"
SEGMENT = 0
"""ExperienceItem.kind"""


class SpoolFullError(OSError):
    """No room within the spool's bound; to be tried again when the learner has taken something."""


class SpoolError(ValueError):
    """An item is not what was stored; the text names it."""


@dataclass(frozen=True)
class Item:
    """One numbered unit of the hand-over."""

    seq: int
    kind: int
    """Of ExperienceItem."""
    crc32: int
    size: int
    """[bytes]"""
    path: Path

    @classmethod
    def at(cls, path: Path) -> Item:
        """The item in a file of the spool."""
        seq, kind, crc32 = path.stem.split("-")
        return cls(int(seq), int(kind), int(crc32, 16), path.stat().st_size, path)

    def payload(self) -> bytes:
        """The bytes to send.

        Raises:
            OSError: they cannot be read.
            SpoolError: they are not those that were stored.
        """
        data = self.path.read_bytes()
        if zlib.crc32(data) != self.crc32:
            raise SpoolError(f"{self.path}: crc32 is {zlib.crc32(data):08x}, must be {self.crc32:08x}")
        return data


def read_spool(directory: Path) -> list[Item]:
    """The items that wait, oldest first; changes nothing, so a recorder may be at work."""
    try:
        folder = directory / (directory / "current").read_text()
    except FileNotFoundError:
        return []
    stored = folder / "acknowledged"
    acknowledged = int(stored.read_text()) if stored.exists() else 0
    items = [Item.at(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    return [item for item in items if item.seq > acknowledged]


class Spool:
    """Numbers items 1, 2, 3, ... within a boot id, which survives restarts together with the directory.

    Directory layout: `current` names the boot, whose folder holds its items and the number that was acknowledged.
    What else is there is of an earlier boot, and removed.
    """

    def __init__(self, directory: Path, limit: int = 0) -> None:
        """`limit` [bytes] of the items that wait together; 0 = none. One item has room whatever its size."""
        self._directory, self._limit = directory, limit
        directory.mkdir(parents=True, exist_ok=True)
        current = directory / "current"
        if current.exists():
            self.boot = current.read_text()
            self._open()
        else:
            self.begin_anew()

    @property
    def newest(self) -> int:
        """The last number given out, 0 = none."""
        return self._next - 1

    @property
    def waiting(self) -> int:
        """Items that are not acknowledged."""
        return len(self._items)

    def begin_anew(self) -> None:
        """Take a new boot id and forget all items: whoever has the bags hands everything over again.

        Raises:
            OSError: the old boot is still in force.
        """
        boot = uuid.uuid4().hex
        write_atomically(self._directory / "current", boot.encode())
        self.boot = boot
        self._open()

    def append(self, payload: bytes, kind: int = SEGMENT) -> Item:
        """Store an item durably and number it.

        Raises:
            SpoolFullError: beyond the bound.
            OSError: it could not be written.
        """
        if self._limit and self._items and self.size + len(payload) > self._limit:
            raise SpoolFullError(
                errno.ENOSPC,
                f"the spool has {self.size} bytes in {self.waiting} items, may have {self._limit} bytes",
            )
        crc32 = zlib.crc32(payload)
        path = self._folder / f"{self._next:010d}-{kind}-{crc32:08x}{SUFFIX}"
        write_atomically(path, payload)
        item = Item(self._next, kind, crc32, len(payload), path)
        self._items.append(item)
        self.size += item.size
        self._next += 1
        return item

    def pending(self, limit: int, size: int | None = None) -> list[Item]:
        """The oldest items that are not acknowledged: at most `limit`, and together `size` bytes if not one alone."""
        found: list[Item] = []
        total = 0
        for item in self._items:
            total += item.size
            if len(found) == limit or (found and size is not None and total > size):
                break
            found.append(item)
        return found

    def acknowledge(self, seq: int) -> None:
        """Everything up to `seq` is with the learner.

        Raises:
            ValueError: a number that was never given out.
        """
        if seq >= self._next:
            raise ValueError(f"acknowledged seq is {seq}, the newest item is {self._next - 1}")
        if seq > self.acknowledged:
            write_atomically(self._folder / "acknowledged", str(seq).encode())
            self.acknowledged = seq
        while self._items and self._items[0].seq <= seq:
            self._items[0].path.unlink(missing_ok=True)
            self.size -= self._items.popleft().size

    def _open(self) -> None:
        self._folder = self._directory / self.boot
        self._folder.mkdir(exist_ok=True)
        stored = self._folder / "acknowledged"
        self.acknowledged = int(stored.read_text()) if stored.exists() else 0
        """Items up to this one are with the learner."""
        self._items: deque[Item] = deque()
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            item = Item.at(path)
            if item.seq <= self.acknowledged:  # a crash came between the acknowledgement and the deletion
                path.unlink()
            else:
                self._items.append(item)
        self.size = sum(item.size for item in self._items)
        """[bytes] of the items that wait"""
        self._next = self.acknowledged + len(self._items) + 1
        if self._items and self._items[-1].seq != self.newest:
            self.begin_anew()  # an item is missing: the learner would wait for it for ever
            return
        self._sweep()

    def _sweep(self) -> None:
        for path in self._directory.iterdir():
            if path.name in ("current", self.boot):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
