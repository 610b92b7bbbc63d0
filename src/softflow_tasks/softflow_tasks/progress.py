"""Which episode comes next, so that an episode manager that is started again within a run goes on counting."""

from __future__ import annotations

import json
from pathlib import Path

from softflow_node.files import write_atomically


class EpisodeCount:
    """The index of the next episode, on disk; a new run of the graph begins at its own first index."""

    def __init__(self, path: Path | None, run_id: str, first: int) -> None:
        """Read what an earlier process of the same run left; a file that cannot be read counts as none.

        Args:
            path: None keeps the index in memory.
            run_id: of the run of the graph; empty means that it is not known, and the index starts at `first`.
            first: index of the run's first episode.
        """
        self._path, self._run_id = path, run_id
        self.index = first
        if path is None or not run_id:
            return
        try:
            found = json.loads(path.read_text())
            if found["run_id"] == run_id and int(found["first"]) == first:
                self.index = max(first, int(found["next"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._first = first

    def advance(self) -> None:
        """One more episode is done. Raises OSError."""
        self.index += 1
        if self._path is not None and self._run_id:
            state = {"run_id": self._run_id, "first": self._first, "next": self.index}
            write_atomically(self._path, json.dumps(state).encode())
