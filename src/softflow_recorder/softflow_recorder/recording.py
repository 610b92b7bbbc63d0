"""Episodes that are being recorded, each into its bag, until they are complete, overdue, or the disk is full."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.typesys.store import Typestore

from softflow_recorder.bag import BagError, BagWriter, episode_bags, read_information
from softflow_recorder.disk import DiskWatch
from softflow_recorder.episode import EpisodeAssembler
from softflow_recorder.images import KIND as IMAGE
from softflow_recorder.metadata import describe

DESCRIPTION = "hand_description"
RESULT_TIMEOUT = 1.0
"""[s] to wait for the result of the last chunk, which comes with the next reset; starved steps have none."""
HOUSEKEEPING = 1.0
"""[s] between looks at the disk, and between attempts at what it had no room for."""


@dataclass(frozen=True)
class Options:
    """How bags are written."""

    custom: Mapping[str, str]
    """Of every bag."""
    flush_bytes: int
    flush_period: float
    """[s]"""
    sync: bool
    completion_timeout: float
    """[s] to wait for late messages of an episode"""


@dataclass(frozen=True)
class Raw:
    """A message as it came."""

    topic: str
    """In full."""
    type: str
    data: bytes
    message: Any
    """The same, decoded."""

    @property
    def name(self) -> str:
        """Last part of the topic."""
        return self.topic.rsplit("/", 1)[-1]


@dataclass
class Recording:
    """An episode and its bag."""

    assembler: EpisodeAssembler
    bag: BagWriter
    ended_at: float = 0.0
    told: bool = False
    """That there is nothing more to wait for."""


def closed_episodes(directory: Path, count: int) -> set[str]:
    """Episodes of the newest `count` closed bags, but for those that a crash cut off: more may come of them."""
    found = set()
    for bag in episode_bags(directory)[-count:]:
        with suppress(BagError, OSError):
            custom = read_information(bag).custom
            if custom.get("complete") == "true" or custom.get("recovered") != "true":
                found.add(custom.get("episode_id", ""))
    return found


class Recordings:
    """Writes every message into the bag of its episode; what carries no episode goes into all that are open."""

    def __init__(
        self,
        directory: Path,
        typestore: Typestore,
        options: Options,
        disk: DiskWatch,
        closed: Callable[[Path], None],
        warn: Callable[[str], None],
        finished: Iterable[str] = (),
        tell: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        """`finished`: episodes of which nothing more is recorded.

        `tell(episode_id, why)` is called once for each episode when no step of it is waited for any more; `why` it is
        not complete, or empty.
        """
        self.open: dict[str, Recording] = {}
        self.counters: Counter[str] = Counter()
        self._directory, self._typestore, self._options = directory, typestore, options
        self._disk, self._closed, self._warn, self._tell = disk, closed, warn, tell
        self._finished = set(finished)
        self._latest: dict[str, Raw] = {}
        """topic -> newest description or image: an episode begins with what was known before"""
        self._left: deque[BagWriter] = deque()
        """Ended, and not closed yet."""
        self._look_at = 0.0

    def add(self, raw: Raw) -> None:
        """Write a message of an episode."""
        episode_id = raw.message.episode_id
        if not episode_id or episode_id in self._finished:
            return
        recording = self.open.get(episode_id) or self._begin(episode_id)
        if recording is None:
            return
        self._write(recording, raw)
        if recording.assembler.ended:
            recording.ended_at = recording.ended_at or time.monotonic()
            if self._is_wanting(recording):
                return
            self._tell_once(episode_id, recording)
            if recording.assembler.settled and not self._disk.why:
                self._end(episode_id)

    def add_shared(self, raw: Raw) -> None:
        """Write an image, or the description of the hand."""
        self._latest[raw.topic] = raw
        for recording in list(self.open.values()):
            self._write(recording, raw)

    def poll(self, now: float) -> None:
        """Flush what has waited long enough, end what is overdue, look at the disk."""
        for episode_id, recording in list(self.open.items()):
            try:
                recording.bag.flush_if_due()
            except OSError as error:
                self._disk.failed(error)
            wanting = self._is_wanting(recording)
            timeout = self._options.completion_timeout if wanting else RESULT_TIMEOUT
            if recording.ended_at and now - recording.ended_at > timeout:
                self._end(episode_id)
        if now >= self._look_at:
            self._look_at = now + HOUSEKEEPING
            self._disk.look()
            self._close_left()
        if self._disk.why:
            self.close(self._disk.why)

    def close(self, cut: str = "") -> None:
        """End all episodes; with `cut`, the reason, what there is of them is still to be learned from."""
        for episode_id in list(self.open):
            self._end(episode_id, cut)

    def _tell_once(self, episode_id: str, recording: Recording, why: str = "") -> None:
        if not recording.told:
            recording.told = True
            self._tell(episode_id, why)

    def _is_wanting(self, recording: Recording) -> bool:
        return bool(not recording.assembler.discarded and recording.assembler.missing())

    def _begin(self, episode_id: str) -> Recording | None:
        self._disk.look()
        # Names sort by time, also over restarts.
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}-{episode_id[:8]}"
        options = self._options
        custom = {**options.custom, "episode_id": episode_id}
        try:
            if self._disk.why:
                raise OSError(self._disk.why)
            bag = BagWriter(
                self._directory / name,
                self._typestore,
                custom,
                flush_bytes=options.flush_bytes,
                flush_period=options.flush_period,
                sync=options.sync,
            )
        except OSError as error:
            self._disk.failed(error)
            self._finished.add(episode_id)
            self.counters["unrecorded_episodes"] += 1
            self._tell(episode_id, str(error))
            return None
        # The bytes of images are in the bag, from which a complete episode is read.
        recording = Recording(EpisodeAssembler(episode_id, keep_images=False), bag)
        self.open[episode_id] = recording
        for raw in self._latest.values():
            self._write(recording, raw)
        return recording

    def _write(self, recording: Recording, raw: Raw) -> None:
        if raw.type == IMAGE:
            if not recording.assembler.add_image(raw.topic, raw.message):
                return  # a world that waits repeats its state, and the picture of it
        else:
            recording.assembler.add(raw.name, raw.message)
        try:
            recording.bag.write(raw.topic, raw.type, time.time_ns(), raw.data)
        except OSError as error:
            self._disk.failed(error)  # the bag keeps what it could not write; `poll` ends the episode

    def _end(self, episode_id: str, cut: str = "") -> None:
        recording = self.open.pop(episode_id)
        self._finished.add(episode_id)
        custom = describe(recording.assembler)
        complete = custom["complete"] == "true"
        self._tell_once(episode_id, recording, "" if complete else custom["why"])
        if not complete:
            self._warn(f"kept as incomplete: {custom['why']}")
            custom |= {"recovered": "true", "recovery": cut} if cut else {}
        self.counters["episodes" if complete else "incomplete_episodes"] += 1
        for topic, count in recording.assembler.gaps.missing.items():
            self.counters[f"missing_{topic}"] += count
        recording.bag.set_custom(custom)
        self._left.append(recording.bag)
        self._close_left()

    def _close_left(self) -> None:
        while self._left:
            bag = self._left[0]
            try:
                bag.close()
            except OSError as error:
                self._disk.failed(error)
                return
            self._left.popleft()
            self._closed(bag.path)
