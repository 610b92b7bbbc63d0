"""MCAP files on the disk: appended whole chunks at a time, and read up to the first byte that is not sound.

Record layout and checksums: https://mcap.dev/spec
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Chunk, DataEnd, Header, Message, Metadata, Schema
from mcap.stream_reader import breakup_chunk

MAGIC = b"\x89MCAP0\r\n"
FRAME = struct.Struct("<BQ")
"""Before each record: opcode and length of what follows."""
FOOTER = struct.Struct("<BQQQI")
"""Framed: start of the summary, start of the summary's offsets, checksum of the summary."""
CHUNK_HEAD = struct.Struct("<QQQI")
"""Start and end time, uncompressed size, checksum."""


class AppendOnlyFile:
    """A new file that holds whole commits, whatever fails: what does not fit is kept in memory and can be tried again.

    It is locked while it is open, so that nobody takes it for one that was left behind.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._committed = 0
        self._pending = bytearray()

    def write(self, data: bytes) -> int:
        """Keep bytes for the next commit."""
        self._pending += data
        return len(data)

    def tell(self) -> int:
        """Size of the file after the next commit."""
        return self._committed + len(self._pending)

    def flush(self) -> None:
        """Part of what an MCAP writer expects of a stream; only `commit` writes."""

    def commit(self, sync: bool) -> None:
        """Append what is kept; `sync` waits until it is on the disk.

        Raises:
            OSError: it could not be written; the file ends where it did, and nothing that was kept is lost.
        """
        end = self._committed
        try:
            with memoryview(self._pending) as waiting:
                while end < self.tell():
                    end += os.pwrite(self._fd, waiting[end - self._committed :], end)
            if sync:
                # A failed sync may have lost the bytes, and is told only once: they are kept until it succeeds.
                os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._committed)
            raise
        self._pending, self._committed = bytearray(), end

    def close(self) -> None:
        """Let go of the file; what was not committed is lost."""
        os.close(self._fd)


class DamageError(ValueError):
    """A record is not what a writer wrote; the text says which byte and why."""


class SoundPrefix:
    """The records of a file up to the first one that is cut off or damaged. `records` fills the other fields."""

    def __init__(self, data: Any) -> None:
        self._data = memoryview(data)
        self.size = len(self._data)
        self.good = 0
        """[bytes] that are sound"""
        self.closed = False
        """Sound to the last byte, index and checksums of the whole included."""
        self.why = "not closed"
        """What is wrong after `good`; empty when closed."""
        self.damaged = False
        """Bytes were changed; otherwise the file just ends."""
        self._chunked = False

    def records(self, messages: bool = True) -> Iterator[Any]:
        """Yield mcap's records, those within chunks too unless `messages` is false."""
        try:
            yield from self._walk(messages)
        except DamageError as error:
            self.damaged, self.why = True, f"{error} (byte {self.good} of {self.size})"

    def _walk(self, messages: bool) -> Iterator[Any]:
        if bytes(self._data[:8]) != MAGIC[: self.size]:
            raise DamageError("does not begin as an MCAP file does")
        at, checksum = min(8, self.size), zlib.crc32(MAGIC)
        while at + FRAME.size <= self.size:
            opcode, length = FRAME.unpack_from(self._data, at)
            end = at + FRAME.size + length
            body = self._data[at + FRAME.size : end]
            if end > self.size:
                self._cut_off(opcode, length, body)
                break
            found = self._parse(opcode, body, first=at == 8)
            if isinstance(found, DataEnd):
                self._check_end(found, at, end, checksum)
                return
            if isinstance(found, Chunk):
                inner = _unpack(found)
                yield from inner if messages else ()
            elif found is not None:
                yield found
            checksum = zlib.crc32(self._data[at:end], checksum)
            at = self.good = end
        if self.good < self.size:
            self.why = f"cut off within a record (byte {self.good} of {self.size})"

    def _parse(self, opcode: int, body: memoryview, first: bool) -> Any:
        """A record of the data section; None for an index, which is worked out anew when it is needed."""
        known = {Opcode.METADATA: Metadata, Opcode.ATTACHMENT: Attachment, Opcode.DATA_END: DataEnd}
        known[Opcode.CHUNK] = Chunk
        if first:
            known = {Opcode.HEADER: Header}
        elif not self._chunked:
            known |= {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel, Opcode.MESSAGE: Message}
        self._chunked = self._chunked or opcode == Opcode.CHUNK
        if opcode == Opcode.MESSAGE_INDEX and not first:
            if len(body) < 6 or struct.unpack_from("<I", body, 2)[0] != len(body) - 6:
                raise DamageError("an index of messages contradicts itself")
            return None
        if opcode not in known:
            raise DamageError(f"a record has opcode {opcode}, which has no place here")
        return _read(known[opcode], body)

    def _cut_off(self, opcode: int, length: int, rest: memoryview) -> None:
        """A record that a crash cut off still says its own size within; one with a changed length contradicts it."""
        inner = length
        if opcode == Opcode.CHUNK and len(rest) >= CHUNK_HEAD.size + 4:
            (name,) = struct.unpack_from("<I", rest, CHUNK_HEAD.size)
            if len(rest) >= CHUNK_HEAD.size + 12 + name:
                (size,) = struct.unpack_from("<Q", rest, CHUNK_HEAD.size + 4 + name)
                inner = CHUNK_HEAD.size + 12 + name + size
        elif opcode == Opcode.MESSAGE_INDEX and len(rest) >= 6:
            inner = 6 + struct.unpack_from("<I", rest, 2)[0]
        if inner != length:
            raise DamageError(f"a record says that it has {length} bytes, and within {inner}")

    def _check_end(self, record: DataEnd, at: int, end: int, checksum: int) -> None:
        if record.data_section_crc not in (0, checksum):
            raise DamageError("the checksum of all messages is wrong")
        footer_at = self.size - FOOTER.size - len(MAGIC)
        if footer_at < end or bytes(self._data[-8:]) != MAGIC:
            self.why = f"cut off within its index (byte {at} of {self.size})"
            return
        opcode, length, start, _, crc = FOOTER.unpack_from(self._data, footer_at)
        if (opcode, length) != (Opcode.FOOTER, 20) or start not in (0, end):
            raise DamageError("the footer is wrong")
        if crc and zlib.crc32(self._data[end : self.size - len(MAGIC) - 4]) != crc:
            raise DamageError("the checksum of the index is wrong")
        self.good, self.closed, self.why = self.size, True, ""


def mapped(file: Path) -> Any:
    """The bytes of a file, without reading them into memory."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        return mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ) if size else b""


def fault_of(file: Path) -> str:
    """Check every checksum of a file; returns what is wrong, nothing when it is closed and sound."""
    prefix = SoundPrefix(mapped(file))
    for _ in prefix.records(messages=False):
        pass
    return prefix.why


def _read(kind: Any, body: memoryview) -> Any:
    """One record that takes up all of `body`."""
    stream = ReadDataStream(io.BytesIO(body))
    try:
        record = kind.read(stream, len(body)) if kind is Message else kind.read(stream)
    except Exception as error:  # mcap has no common base for what damaged bytes can raise
        raise DamageError(
            f"a {kind.__name__} record cannot be read: {type(error).__name__}: {error}"
        ) from error
    if stream.count != len(body):
        raise DamageError(f"a {kind.__name__} record has {len(body)} bytes, its content {stream.count}")
    return record


def _unpack(chunk: Chunk) -> list[Any]:
    """The records of a chunk whose checksum is right."""
    if not chunk.compression and len(chunk.data) != chunk.uncompressed_size:
        raise DamageError(f"a chunk has {len(chunk.data)} bytes, its head says {chunk.uncompressed_size}")
    try:
        return breakup_chunk(chunk, validate_crc=True)
    except Exception as error:  # what a decompressor can raise as well
        raise DamageError(f"a chunk cannot be read: {type(error).__name__}: {error}") from error
