"""Experience that waits for the learner, on disk. An item leaves only when it was acknowledged."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from softflow_node.files import write_atomically

SUFFIX = ".item"
SEGMENT = 0
"""ExperienceItem.kind"""


@dataclass(frozen=True)
class Item:
    """One numbered unit of the hand-over."""

    seq: int
    path: Path

    @property
    def kind(self) -> int:
        """Of ExperienceItem."""
        return _kind(self.path)

    def payload(self) -> bytes:
        """The bytes to send."""
        return self.path.read_bytes()


class Spool:
    """Numbers items 1, 2, 3, ... within a boot id, which survives restarts together with the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.boot = self._persistent("boot", uuid.uuid4().hex)
        pending = [_number(p) for p in directory.glob(f"*{SUFFIX}")]
        self._next = max([*pending, int(self._persistent("acknowledged", "0"))]) + 1

    @property
    def acknowledged(self) -> int:
        """Items up to this one are with the learner."""
        return int((self._directory / "acknowledged").read_text())

    @property
    def newest(self) -> int:
        """The last number given out, 0 = none."""
        return self._next - 1

    def append(self, payload: bytes, kind: int = SEGMENT) -> Item:
        """Store an item durably and number it."""
        name = f"{self._next:010d}" + (f"-{kind}" if kind else "")
        item = Item(self._next, self._directory / f"{name}{SUFFIX}")
        write_atomically(item.path, payload)
        self._next += 1
        return item

    def pending(self, limit: int) -> list[Item]:
        """The oldest items that are not acknowledged."""
        paths = sorted(self._directory.glob(f"*{SUFFIX}"))[:limit]
        return [Item(_number(p), p) for p in paths]

    def acknowledge(self, seq: int) -> None:
        """Everything up to `seq` is with the learner.

        Raises:
            ValueError: a number that was never given out.
        """
        if seq >= self._next:
            raise ValueError(f"acknowledged seq is {seq}, the newest item is {self._next - 1}")
        if seq > self.acknowledged:
            write_atomically(self._directory / "acknowledged", str(seq).encode())
        # Items of an earlier acknowledgement too: a crash may have left them.
        for item in self.pending(limit=1_000_000):
            if item.seq <= seq:
                item.path.unlink()

    def _persistent(self, name: str, default: str) -> str:
        path = self._directory / name
        if not path.exists():
            write_atomically(path, default.encode())
        return path.read_text()


def _number(path: Path) -> int:
    return int(path.stem.split("-")[0])


def _kind(path: Path) -> int:
    return int(path.stem.partition("-")[2] or SEGMENT)
