"""One rosbag2 bag (MCAP) an episode: writing raw messages, reading them back.

The bytes that came over the wire are written unchanged; message definitions travel inside the bag, so that any
reader of MCAP or rosbag2 understands it without this package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from softflow_node.files import fsync
from softflow_recorder.episode import EpisodeAssembler, EpisodeData, EpisodeError

BAG_VERSION = 9
FORMAT = "softflow/1"


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
    """Writes one episode. Closed = `metadata.yaml` exists and everything is on the disk."""

    def __init__(self, path: Path, typestore: Typestore, custom: Mapping[str, str]) -> None:
        self.path = path
        self.messages = 0
        self._typestore = typestore
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Connection] = {}
        self.set_custom({"format": FORMAT, **custom})

    def set_custom(self, custom: Mapping[str, str]) -> None:
        """Add key-value pairs to the bag's metadata."""
        for key, value in custom.items():
            self._writer.set_custom_data(key, value)

    def write(self, topic: str, message_type: str, stamp: int, data: bytes) -> None:
        """Append a serialised message; `stamp` [ns] is the time of reception."""
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(topic, message_type, typestore=self._typestore)
            self._connections[topic] = connection
        self._writer.write(connection, stamp, data)
        self.messages += 1

    def close(self) -> None:
        """Write the index and metadata, then force everything to the disk."""
        self._writer.close()
        for path in (*self.path.iterdir(), self.path, self.path.parent):
            fsync(path)


def read_messages(path: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield (topic, stamp [ns], message) of a bag, decoded by the definitions inside it.

    Raises:
        BagError: not a bag, not closed, or damaged.
    """
    if not (path / "metadata.yaml").is_file():
        raise BagError(f"{path}: metadata.yaml is missing: not a bag, or one that was never closed")
    try:
        with Reader(path) as reader:
            store = get_typestore(Stores.ROS2_JAZZY)
            for connection in reader.connections:
                types = get_types_from_msg(connection.msgdef.data, connection.msgtype)
                store.register({n: d for n, d in types.items() if n not in store.fielddefs})
            for connection, stamp, data in reader.messages():
                yield connection.topic, stamp, store.deserialize_cdr(data, connection.msgtype)
    except BagError:
        raise
    except Exception as error:  # rosbags has no common base for what damaged bytes can raise
        raise BagError(f"{path}: damaged or truncated: {type(error).__name__}: {error}") from error


def read_episode(path: Path) -> EpisodeData:
    """Read one episode from its bag.

    Raises:
        BagError: the bag cannot be read or the episode in it is incomplete.
    """
    assembler: EpisodeAssembler | None = None
    for topic, _, message in read_messages(path):
        episode_id = getattr(message, "episode_id", "")
        if not episode_id:
            continue
        if assembler is None:
            assembler = EpisodeAssembler(episode_id)
        if episode_id == assembler.episode_id:
            assembler.add(topic.rsplit("/", 1)[-1], message)
    if assembler is None:
        raise BagError(f"{path}: holds no episode")
    try:
        return assembler.finish()
    except EpisodeError as error:
        raise BagError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Information:
    """What the metadata of a closed bag says."""

    topics: tuple[tuple[str, str, int], ...]
    """(topic, type, number of messages), by topic."""
    custom: dict[str, str]
    """What the recorder wrote about the episode; empty in a foreign bag."""


def read_information(path: Path) -> Information:
    """Read a bag's metadata.

    Raises:
        BagError: not a bag, not closed, or its metadata cannot be read.
    """
    metadata = path / "metadata.yaml"
    if not metadata.is_file():
        raise BagError(f"{path}: metadata.yaml is missing: not a bag, or one that was never closed")
    try:
        about = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"]
        topics = [(t["topic_metadata"], t["message_count"]) for t in about["topics_with_message_count"]]
        return Information(
            topics=tuple(sorted((str(t["name"]), str(t["type"]), int(count)) for t, count in topics)),
            custom={str(k): str(v) for k, v in (about.get("custom_data") or {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise BagError(f"{metadata}: not the metadata of a bag: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Summary:
    """What a closed bag says about its episode without being read."""

    path: Path
    complete: bool
    index: int
    """Of the episode within its run; -1 in an incomplete one."""
    mode: str
    source: str
    success: bool
    metrics: dict[str, float]

    @property
    def steps(self) -> int:
        """Control steps."""
        return int(self.metrics.get("steps", 0))


def read_summary(path: Path) -> Summary | None:
    """Summary of a bag; None while it is not closed.

    Raises:
        BagError: its metadata cannot be read or is not ours.
    """
    if not (path / "metadata.yaml").is_file():
        return None
    custom = read_information(path).custom
    try:
        return Summary(
            path=path,
            complete=custom["complete"] == "true",
            index=int(custom.get("index", "-1")),
            mode=custom.get("mode", ""),
            source=custom.get("source", ""),
            success=custom.get("success") == "true",
            metrics=json.loads(custom.get("metrics", "{}")),
        )
    except (KeyError, ValueError) as error:
        raise BagError(f"{path}: not a softflow bag: {type(error).__name__}: {error}") from error


def episode_bags(directory: Path) -> list[Path]:
    """Directories below `directory` that are or were to become bags, in the order of their names."""
    return sorted(
        {p.parent for p in directory.glob("*/*.mcap")} | {p.parent for p in directory.glob("*/metadata.yaml")}
    )
