"""Watches the room that is left for bags. Plain Python."""

from __future__ import annotations

import shutil
from pathlib import Path

MEGABYTE = 10**6


class DiskWatch:
    """Says stop when there is too little room, and lets go on only after somebody has asked for it."""

    def __init__(self, directory: Path, min_free_mb: int) -> None:
        self._directory = directory
        self._reserve = min_free_mb
        self.why = ""
        """Why nothing is recorded; empty while all is well."""

    def look(self) -> bool:
        """Measure; returns whether there is enough room now. A stop stays in force when there is again."""
        try:
            free = shutil.disk_usage(self._directory).free // MEGABYTE
        except OSError as error:  # the directory has gone
            self.failed(error)
            return False
        if free < self._reserve and not self.why:
            self.why = f"{free} MB are free in {str(self._directory)!r}, min_free_mb is {self._reserve}"
        return free >= self._reserve

    def failed(self, error: OSError) -> None:
        """Something could not be written."""
        self.why = self.why or f"writing failed: {error}"

    def resume(self) -> bool:
        """Somebody wants to go on; returns whether that is possible, and if so nothing is stopped any more."""
        if self.look():
            self.why = ""
        return not self.why
