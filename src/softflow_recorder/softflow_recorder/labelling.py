"""Finds an episode's bag and labels it. Plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softflow_recorder.bag import BagError, episode_bags, read_summary
from softflow_recorder.labels import Label, append_label


def label_bag(path: Path, start: int, values: Sequence[float], source: str, confidence: float) -> Label:
    """Add a revision of an episode's rewards, durably; `read_episode` uses it from now on.

    Raises:
        BagError: the bag is not closed or not ours.
        LabelError: names field, value and bound.
    """
    summary = read_summary(path)
    if summary is None:
        raise BagError(f"{path}: not closed: it can be labelled when its episode has ended")
    return append_label(path, summary.steps, summary.label_revision, start, values, source, confidence)


def find_bag(directory: Path, episode_id: str) -> Path:
    """The closed bag of an episode; where a crash left several, that with most of it.

    Raises:
        BagError: there is none.
    """
    # The recorder's names end with the beginning of the id; a bag may have been renamed.
    for pattern in (f"*-{episode_id[:8]}", "*"):
        found = []
        for path in episode_bags(directory):
            if path.match(pattern) and (path / "metadata.yaml").is_file():
                try:
                    summary = read_summary(path)
                except BagError:
                    continue  # another one's metadata are damaged, or foreign
                if summary is not None and summary.episode_id == episode_id:
                    found.append(summary)
        if found:
            return max(found, key=lambda s: (s.complete, s.steps)).path
    raise BagError(f"episode_id is {episode_id!r}: no closed bag below {str(directory)!r} holds it")
