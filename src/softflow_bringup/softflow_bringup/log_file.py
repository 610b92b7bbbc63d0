"""A node's log file. Plain Python."""

from __future__ import annotations

import contextlib
from pathlib import Path


class LogFile:
    """Lines, each written at once. What finds no room is left out and counted: no node may wait for its log."""

    def __init__(self, path: Path) -> None:
        """Goes on with a file that is there. Raises OSError."""
        self._file = path.open("ab", buffering=0)
        self.lost = 0
        """Lines left out since the last one that was written."""
        self._why = ""

    def write(self, line: str) -> None:
        """Append a line without its end."""
        missing = f"({self.lost} lines are missing here: {self._why})\n" if self.lost else ""
        try:
            self._file.write(f"{missing}{line}\n".encode(errors="replace"))
            self.lost = 0
        except OSError as error:
            self.lost, self._why = self.lost + 1, error.strerror or str(error)

    def fileno(self) -> int:
        """Of the open file."""
        return self._file.fileno()

    def close(self) -> None:
        """Whatever the disk says."""
        with contextlib.suppress(OSError):
            self._file.close()
