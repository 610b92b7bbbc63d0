"""What was put into the spool, so that nothing is put there twice or forgotten. Plain Python.

Before an item goes into the spool, a line says which number it will have. After a crash the spool's newest number
tells whether that happened: a line is true when its number was given out. Lines count for their own boot of the spool
only: with a new one nothing was handed over yet.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

from softflow_node.files import write_atomically


class Numbered(Protocol):
    """What the ledger needs of a spool."""

    @property
    def boot(self) -> str:
        """Numbers count within it."""

    @property
    def newest(self) -> int:
        """The last number given out, 0 = none."""

    def append(self, payload: bytes, kind: int = 0) -> object:
        """Store an item durably under the next number."""


class LedgerError(ValueError):
    """The file is damaged; the text names it and the line."""


@dataclass(frozen=True)
class Entry:
    """An intention: `count` items from number `first` on."""

    key: str
    """episode, or episode:revision of a label"""
    bag: str
    """Name of the bag it comes from."""
    boot: str
    first: int
    count: int


class Ledger:
    """A durable file of entries beside the spool."""

    def __init__(self, path: Path, spool: Numbered) -> None:
        """Read the file.

        Raises:
            LedgerError: a line before the last is damaged; the last one may be cut off.
        """
        self._path = path
        self._spool = spool
        self._entries: dict[str, Entry] = {}
        data = path.read_bytes() if path.exists() else b""
        self._size = data.rfind(b"\n") + 1
        for number, line in enumerate(data[: self._size].split(b"\n")[:-1], start=1):
            checksum, _, text = line.partition(b" ")
            if checksum != b"%08x" % zlib.crc32(text):
                raise LedgerError(f"{path}: line {number} is damaged: its checksum is wrong")
            values = json.loads(text)
            entry = Entry(**{field.name: values[field.name] for field in fields(Entry)})
            if entry.boot == spool.boot:
                self._take(entry)
        if not path.exists():
            write_atomically(path, b"")

    def forget(self) -> None:
        """The spool has a new boot: nothing is in it."""
        self._entries.clear()
        write_atomically(self._path, b"")
        self._size = 0

    def find(self, key: str) -> Entry | None:
        """The entry of what is in the spool, in full; None when it is not."""
        entry = self._entries.get(key)
        if entry is None or self._missing(entry):
            return None
        return entry

    def bags(self) -> set[str]:
        """Names of the bags whose episode is in the spool."""
        return {e.bag for e in self._entries.values() if ":" not in e.key and not self._missing(e)}

    def put(self, key: str, bag: str, payloads: Sequence[bytes], kind: int = 0) -> None:
        """Put items into the spool unless they are there.

        Raises:
            OSError: no room; to be tried again.
        """
        entry = self._entries.get(key)
        if entry is None or self._missing(entry) == entry.count:
            wanted = Entry(key, bag, self._spool.boot, self._spool.newest + 1, len(payloads))
            if wanted != entry:  # it is when there was no room the last time
                self._write(wanted)
            entry = wanted
        for payload in payloads[len(payloads) - self._missing(entry) :]:
            self._spool.append(payload, kind)

    def _missing(self, entry: Entry) -> int:
        """Items of an entry that are not in the spool."""
        return max(0, min(entry.count, entry.first + entry.count - 1 - self._spool.newest))

    def _take(self, entry: Entry) -> None:
        # Who has the same numbers as a later entry never got them.
        while self._entries:
            last = next(reversed(self._entries.values()))
            if last.first + last.count <= entry.first:
                break
            del self._entries[last.key]
        self._entries.pop(entry.key, None)
        self._entries[entry.key] = entry

    def _write(self, entry: Entry) -> None:
        text = json.dumps(asdict(entry)).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        with self._path.open("ab") as file:
            file.truncate(self._size)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(line)
        self._take(entry)
