"""From closed bags into the spool: every episode for training and every label of one, once. Plain Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from softflow_recorder.bag import BagError, Summary, episode_bags, read_episode, read_summary
from softflow_recorder.episode import EpisodeData
from softflow_recorder.labels import FILE as LABELS
from softflow_recorder.labels import Label, LabelError, read_labels
from softflow_recorder.ledger import Ledger
from softflow_recorder.spool import Spool

TRAIN = "train"
SEGMENT, LABEL = 0, 1
"""ExperienceItem.kind"""


class Outbox:
    """Bags that wait for the spool, in the order of their episodes."""

    def __init__(
        self,
        directory: Path,
        robot: str,
        spool: Spool,
        segments: Callable[[EpisodeData], Sequence[bytes]],
        label: Callable[[str, Label], bytes],
    ) -> None:
        """Find what an earlier process left undone.

        Args:
            directory: of the bags.
            robot: whose bags are handed over.
            spool: where to.
            segments: payloads of an episode.
            label: payload of (episode_id, label).
        """
        self._directory, self._robot, self._spool = directory, robot, spool
        self._segments, self._label = segments, label
        self._ledger = Ledger(directory.parent / "shipped_episodes", spool)
        self._waiting: deque[Path] = deque()
        self.errors: list[str] = []
        """Bags that could not be read; the reader empties it."""
        self._waiting.extend(summary.path for summary in self._closed(directory) if self._is_ours(summary))
        waiting = set(self._waiting)
        labelled = (path.parent for path in sorted(directory.glob(f"*/{LABELS}")))
        self._waiting.extend(path for path in labelled if path not in waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, bag: Path) -> None:
        """A bag was closed, or an episode was labelled."""
        self._waiting.append(bag)

    def begin_anew(self) -> None:
        """Hand everything over again, in order: the learner has lost something, and drops what it still has.

        A crash at any moment leaves either the old boot or a new one with nothing handed over.

        Raises:
            OSError: the spool could not begin a new boot.
        """
        self._spool.begin_anew()
        self._waiting = deque(sorted(episode_bags(self._directory)))
        self._ledger.forget()

    def work(self, most: int | None = None) -> None:
        """Put into the spool what waits, of at most so many bags.

        Raises:
            OSError: no room; what is not there yet goes on waiting.
        """
        for _ in range(len(self) if most is None else min(most, len(self))):
            try:
                self._put(self._waiting[0])
            except (BagError, LabelError) as error:
                self.errors.append(str(error))
            self._waiting.popleft()

    def _put(self, path: Path) -> None:
        summary = read_summary(path)
        if summary is None or not self._is_ours(summary):
            return
        if self._ledger.find(summary.episode_id) is None:
            payloads = self._segments(read_episode(path, recovered=summary.recovered))
            self._ledger.put(summary.episode_id, path.name, payloads, SEGMENT)
        entry = self._ledger.find(summary.episode_id)
        if entry is None or entry.bag != path.name:
            return
        # Also those that are in the items already: a learner that has these from before drops them.
        for label in read_labels(path):
            key = f"{summary.episode_id}:{label.revision}"
            if self._ledger.find(key) is None:
                payload = self._label(summary.episode_id, label)
                self._ledger.put(key, path.name, [payload], LABEL)

    def _closed(self, directory: Path) -> Iterator[Summary]:
        known = self._ledger.bags()
        for path in episode_bags(directory):
            if path.name in known:
                continue
            try:
                summary = read_summary(path)
            except BagError as error:
                self.errors.append(str(error))
                continue
            if summary is not None:
                yield summary

    def _is_ours(self, summary: Summary) -> bool:
        usable = summary.complete or (summary.recovered and summary.steps > 0)
        return summary.robot == self._robot and summary.mode == TRAIN and usable
