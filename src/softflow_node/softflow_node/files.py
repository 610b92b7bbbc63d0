"""Files that are either the old or the new one, whatever happens; directories for one process. Plain Python."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class InUseError(OSError):
    """Another process works in a directory."""


def lock_directory(directory: Path) -> TextIO:
    """Keep other processes out until the result is closed, or this process ends, however it does. Raises InUseError."""
    directory.mkdir(parents=True, exist_ok=True)
    file = (directory / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        by = file.read().strip() or "unknown"
        file.close()
        raise InUseError(f"{directory}: another process works there (its number: {by})") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def fsync(path: Path) -> None:
    """Force a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file durably; after a crash at any moment it holds the old bytes or the new ones. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()  # half of it would take the room that others need
        raise
    fsync(path.parent)
