"""One rosbag2 bag (MCAP) an episode: writing raw messages, reading them back.

The bytes that came over the wire are written unchanged; message definitions travel inside the bag, so that any
reader of MCAP or rosbag2 understands it without this package.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from softflow_node.files import fsync, write_atomically
from softflow_recorder.episode import EPISODE_TOPICS, EpisodeAssembler, EpisodeData, EpisodeError
from softflow_recorder.images import KIND
from softflow_recorder.labels import LabelError, read_labels
from softflow_recorder.mcap_file import AppendOnlyFile, fault_of
from softflow_recorder.metadata import (
    FORMAT,
    Topic,
    is_intact,
    load_yaml,
    rosbag2_information,
    sealed,
)

FLUSH_BYTES = 256 * 1024
FLUSH_PERIOD = 1.0
"""[s]"""
ASIDE = (".damaged", ".repairing")
"""Endings of directories that a repair leaves or makes; what is in them is no bag of its own."""


class BagError(ValueError):
    """A bag cannot be read; the text names the file and what is wrong with it."""


def load_typestore(message_directories: Mapping[str, Path]) -> Typestore:
    """Types of ROS 2 Jazzy plus those of packages, given as package -> directory of .msg files."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for package, directory in message_directories.items():
        for path in sorted(directory.glob("*.msg")):
            types.update(get_types_from_msg(path.read_text(), f"{package}/msg/{path.stem}"))
    store.register({name: definition for name, definition in types.items() if name not in store.fielddefs})
    return store


class BagWriter:
    """Writes one episode. Closed = `metadata.yaml` exists and everything is on the disk.

    Until then the file grows by whole chunks, each with a checksum. Every method but `set_custom` may raise OSError,
    as on a full disk: what was given to it is kept in memory, and the next `flush` or `close` tries again.
    """

    def __init__(
        self,
        path: Path,
        typestore: Typestore,
        custom: Mapping[str, str],
        *,
        name: str = "",
        flush_bytes: int = FLUSH_BYTES,
        flush_period: float = FLUSH_PERIOD,
        sync: bool = True,
    ) -> None:
        """Open a new bag.

        Args:
            path: directory to be made.
            typestore: knows the types of all messages to come.
            custom: key-value pairs of the bag's metadata.
            name: of the bag; by default that of its directory.
            flush_bytes: a chunk goes to the file when it has so many,
            flush_period: or after so long [s],
            sync: and then to the disk: without, a loss of power takes with it what the kernel had not written.
        """
        self.path = path
        self.messages = 0
        self.typestore = typestore
        self._limits = (flush_bytes, flush_period)
        self._sync = sync
        self._custom = {"format": FORMAT, **custom}
        self._name = f"{name or path.name}.mcap"
        path.mkdir(parents=True)
        try:
            self._begin()
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def _begin(self) -> None:
        self._file = AppendOnlyFile(self.path / self._name)
        self._writer = Writer(self._file, 2**62, CompressionType.NONE, enable_data_crcs=True)
        self._writer.start(profile="ros2", library=FORMAT)
        self._writer.add_metadata("softflow", sealed(self._custom))
        self._topics: dict[str, tuple[int, Topic]] = {}
        self._schemas: dict[str, int] = {}
        self._first, self._last = 2**63 - 1, 0
        self._waiting, self._flushed_at = 0, time.monotonic()
        self._finished = False
        try:
            self.flush()
        except OSError:
            self._file.close()
            raise
        for directory in (self.path, self.path.parent):
            fsync(directory)

    def set_custom(self, custom: Mapping[str, str]) -> None:
        """Add key-value pairs to the bag's metadata."""
        self._custom.update(custom)

    def write(self, topic: str, message_type: str, stamp: int, data: bytes) -> None:
        """Append a serialised message; `stamp` [ns] is the time of reception."""
        known = self._topics.get(topic)
        channel, about = known if known is not None else self._add(topic, message_type)
        about.messages += 1
        self._writer.add_message(channel, stamp, data, stamp, sequence=about.messages)
        self.messages += 1
        self._first, self._last = min(self._first, stamp), max(self._last, stamp)
        self._waiting += len(data)
        self.flush_if_due()

    def _add(self, topic: str, message_type: str) -> tuple[int, Topic]:
        about = Topic(topic, message_type, self.typestore.hash_rihs01(message_type))
        schema = self._schemas.get(message_type)
        if schema is None:
            text, _ = self.typestore.generate_msgdef(message_type, ros_version=2)
            schema = self._writer.register_schema(message_type, "ros2msg", text.encode())
            self._schemas[message_type] = schema
        more = {"offered_qos_profiles": "", "topic_type_hash": about.type_hash}
        self._topics[topic] = self._writer.register_channel(topic, "cdr", schema, more), about
        return self._topics[topic]

    def flush_if_due(self) -> None:
        """Flush when there is enough, or when it has waited long enough."""
        size, period = self._limits
        if self._waiting >= size or (self._waiting and time.monotonic() - self._flushed_at >= period):
            self.flush()

    def flush(self) -> None:
        """Write what waits as one chunk."""
        self._writer.flush()
        self._file.commit(self._sync)
        self._waiting, self._flushed_at = 0, time.monotonic()

    def close(self) -> None:
        """Write the index and metadata, and force everything to the disk."""
        topics = sorted((about for _, about in self._topics.values()), key=lambda t: t.name)
        custom = sealed({**self._custom, "messages": json.dumps({t.name: t.messages for t in topics})})
        start = self._first if self.messages else 0
        information = rosbag2_information(self._name, topics, start, max(start, self._last), custom)
        if not self._finished:
            self._writer.flush()
            self._writer.add_metadata("softflow", custom)
            text = yaml.safe_dump(information, sort_keys=False)
            self._writer.add_metadata("rosbag2", {"serialized_metadata": text})
            self._writer.finish()
            self._finished = True
        self._file.commit(sync=True)
        whole = yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False)
        write_atomically(self.path / "metadata.yaml", whole.encode())
        self._file.close()

    def abandon(self) -> None:
        """Leave the bag open, as a crash would."""
        self._file.close()


def mcap_file(path: Path) -> Path:
    """The data file of a bag. Raises BagError unless there is exactly one."""
    files = sorted(path.glob("*.mcap"))
    if len(files) != 1:
        raise BagError(f"{path}: holds {len(files)} .mcap files, must hold one")
    return files[0]


def read_messages(
    path: Path, wanted: Callable[[str, str], bool] = lambda topic, message_type: True
) -> Iterator[tuple[str, int, Any]]:
    """Yield (topic, stamp [ns], message) of a bag, decoded by the definitions inside it.

    Args:
        path: directory of the bag.
        wanted: whether messages of (topic, type) are decoded and given; decoding is what takes the time.

    Raises:
        BagError: not a bag, not closed, or damaged.
    """
    _require_closed(path)
    try:
        for file in sorted(path.glob("*.mcap")):
            why = fault_of(file)
            if why:
                raise BagError(f"{path}: damaged or truncated: {why}")
        with Reader(path) as reader:
            store = _typestore(tuple((c.msgtype, c.msgdef.data) for c in reader.connections))
            some = [c for c in reader.connections if wanted(c.topic, c.msgtype)]
            # No connections would mean all of them.
            for connection, stamp, data in reader.messages(some) if some else ():
                yield connection.topic, stamp, store.deserialize_cdr(data, connection.msgtype)
    except BagError:
        raise
    except Exception as error:  # rosbags has no common base for what damaged bytes can raise
        raise BagError(f"{path}: damaged or truncated: {type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=8)
def _typestore(definitions: tuple[tuple[str, str], ...]) -> Typestore:
    """Of (type, definition) as a bag has them. Kept, for it compiles a decoder for each type."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for message_type, definition in definitions:
        register(store, message_type, definition)
    return store


def register(store: Typestore, message_type: str, definition: str) -> None:
    """Teach a type store what a bag says about a type and those within it."""
    types = get_types_from_msg(definition, message_type)
    store.register({n: d for n, d in types.items() if n not in store.fielddefs})


class EpisodeCollector:
    """Gives a bag's messages to the assembler of the first episode in it."""

    def __init__(self) -> None:
        self.assembler: EpisodeAssembler | None = None
        self._early: list[tuple[str, Any]] = []

    def add(self, topic: str, message: Any) -> None:
        """Add the next message, decoded, with its whole topic."""
        episode_id = getattr(message, "episode_id", "")
        if self.assembler is None:
            if not episode_id:
                self._early.append(
                    (topic, message)
                )  # an image or the description, from before the first step
                return
            self.assembler = EpisodeAssembler(episode_id)
            for earlier in self._early:
                self.add(*earlier)
        if message.__msgtype__ == KIND:
            self.assembler.add_image(topic, message)
        elif episode_id == self.assembler.episode_id or topic.endswith("/hand_description"):
            self.assembler.add(topic.rsplit("/", 1)[-1], message)


def _is_of_an_episode(topic: str, message_type: str) -> bool:
    return message_type == KIND or topic.rsplit("/", 1)[-1] in EPISODE_TOPICS


def read_episode(path: Path, recovered: bool = False, without: Collection[str] = ()) -> EpisodeData:
    """Read one episode from its bag, with the newest rewards that it was labelled with.

    Args:
        path: directory of the bag.
        recovered: of an incomplete episode, give the steps from its start on that are complete, as one that was
            truncated with the cause "recovered".
        without: sources of labels, given after the fact, that are passed over.

    Raises:
        BagError: the bag cannot be read or the episode in it is incomplete.
    """
    collector = EpisodeCollector()
    try:
        for topic, _, message in read_messages(path, _is_of_an_episode):
            collector.add(topic, message)
    except AttributeError as error:
        raise BagError(f"{path}: {topic} has another definition than ours: {error}") from error
    assembler = collector.assembler
    if assembler is None:
        raise BagError(f"{path}: holds no episode")
    try:
        for label in read_labels(path):
            if label.source not in without:
                assembler.label(label.start, label.values, label.revision, label.source)
        return assembler.finish(recovered)
    except (EpisodeError, LabelError) as error:
        raise BagError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Information:
    """What the metadata of a closed bag says."""

    topics: tuple[tuple[str, str, int], ...]
    """(topic, type, number of messages), by topic."""
    custom: dict[str, str]
    """What the recorder wrote about the episode; empty in a foreign bag."""


def _require_closed(path: Path) -> Path:
    metadata = path / "metadata.yaml"
    if not metadata.is_file():
        raise BagError(
            f"{path}: metadata.yaml is missing: not a bag, or one that was never closed (softflow bags repair)"
        )
    return metadata


def read_information(path: Path) -> Information:
    """Read a bag's metadata.

    Raises:
        BagError: not a bag, not closed, or its metadata cannot be read.
    """
    metadata = _require_closed(path)
    try:
        about = load_yaml(metadata.read_text())["rosbag2_bagfile_information"]
        counted = [(t["topic_metadata"], t["message_count"]) for t in about["topics_with_message_count"]]
        topics = tuple(sorted((str(t["name"]), str(t["type"]), int(count)) for t, count in counted))
        custom = {str(k): str(v) for k, v in (about.get("custom_data") or {}).items()}
        counts = json.loads(custom["messages"]) if "messages" in custom else None
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise BagError(f"{metadata}: not the metadata of a bag: {type(error).__name__}: {error}") from error
    if not is_intact(custom) or (counts is not None and counts != {name: n for name, _, n in topics}):
        raise BagError(f"{metadata}: was changed since it was written: its checksum is wrong")
    return Information(topics, custom)


@dataclass(frozen=True)
class Summary:
    """What a closed bag says about its episode without being read."""

    path: Path
    complete: bool
    recovered: bool
    """It was left open, and closed by a repair."""
    episode_id: str
    robot: str
    index: int
    """Of the episode within its run; -1 where it is not known."""
    mode: str
    source: str
    success: bool
    metrics: dict[str, float]
    steps: int
    """Control steps; of an incomplete episode those from its start on that can be used."""
    label_revision: int
    """The highest in the bag itself."""


def read_summary(path: Path) -> Summary | None:
    """Summary of a bag; None while it is not closed.

    Raises:
        BagError: its metadata cannot be read or is not ours.
    """
    if not (path / "metadata.yaml").is_file():
        return None
    custom = read_information(path).custom
    try:
        metrics = json.loads(custom.get("metrics", "{}"))
        return Summary(
            path=path,
            complete=custom["complete"] == "true",
            recovered=custom.get("recovered") == "true",
            episode_id=custom.get("episode_id", ""),
            robot=custom.get("robot", ""),
            index=int(custom.get("index", "-1")),
            mode=custom.get("mode", ""),
            source=custom.get("source", ""),
            success=custom.get("success") == "true",
            metrics=metrics,
            steps=int(custom.get("steps", metrics.get("steps", 0))),
            label_revision=int(custom.get("label_revision", 0)),
        )
    except (KeyError, ValueError) as error:
        raise BagError(f"{path}: not a softflow bag: {type(error).__name__}: {error}") from error


def episode_bags(directory: Path) -> list[Path]:
    """Directories below `directory` that are or were to become bags, in the order of their names."""
    found = {p.parent for p in directory.glob("*/*.mcap")} | {
        p.parent for p in directory.glob("*/metadata.yaml")
    }
    return sorted(path for path in found if not path.name.endswith(ASIDE))
