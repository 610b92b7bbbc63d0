"""Closes bags that a crash left open, with everything in them up to the first byte that is not sound. Plain Python."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mcap.records import Channel, Message, Metadata, Schema
from rosbags.typesys import Stores, get_typestore

from softflow_node.files import fsync
from softflow_recorder.bag import (
    BagError,
    BagWriter,
    EpisodeCollector,
    episode_bags,
    mcap_file,
    read_information,
    register,
)
from softflow_recorder.labels import FILE as LABELS
from softflow_recorder.mcap_file import SoundPrefix, fault_of, mapped
from softflow_recorder.metadata import describe, is_intact

DAMAGED, REPAIRING = ".damaged", ".repairing"
"""Endings of the directories that hold the original, and the new bag before it takes its place."""


class BagBusyError(BagError):
    """Somebody is writing the bag."""


@dataclass(frozen=True)
class Repaired:
    """What became of a bag."""

    path: Path
    messages: int
    steps: int
    """That can be used."""
    complete: bool
    why: str
    """What was wrong; empty when there was nothing to do."""
    kept: Path | None
    """The original, where it still is."""


def needs_repair(path: Path) -> str:
    """Why a bag is to be repaired; empty when it is sound."""
    why = fault_of(mcap_file(path))
    if not why:
        try:
            read_information(path)
        except BagError as error:
            return str(error)
    return why


def repair(path: Path, keep: bool = False) -> Repaired:
    """Replace a bag that is not sound by one that is; after a crash at any moment one of the two is in its place.

    The original stays beside it where bytes of it were changed (not merely cut off), or with `keep`.

    Raises:
        BagBusyError: it is being written.
        BagError: there is nothing in it that could be a bag.
        OSError: no room for the new one; the original is untouched.
    """
    _undo_half_a_swap(path)
    with _locked(mcap_file(path)):
        why = needs_repair(path)
        return _replace(path, why, keep) if why else Repaired(path, 0, 0, True, "", None)


def _replace(path: Path, why: str, keep: bool) -> Repaired:
    new, old = (path.with_name(path.name + ending) for ending in (REPAIRING, DAMAGED))
    shutil.rmtree(new, ignore_errors=True)
    prefix = SoundPrefix(mapped(mcap_file(path)))
    writer = BagWriter(new, get_typestore(Stores.ROS2_JAZZY), {}, name=path.name, sync=False)
    try:
        custom = {**_copy(prefix, writer), "recovered": "true", "recovery": why}
        writer.set_custom(custom)
        writer.close()
    except OSError:
        writer.abandon()
        raise
    except Exception as error:  # neither rosbags nor mcap has a common base for what damaged bytes can raise
        writer.abandon()
        raise BagError(f"{path}: cannot be repaired: {type(error).__name__}: {error}") from error
    _copy_labels(path, new)
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    new.rename(path)
    fsync(path.parent)
    kept = keep or prefix.damaged
    if not kept:
        shutil.rmtree(old)
    complete = custom["complete"] == "true"
    return Repaired(path, writer.messages, int(custom["steps"]), complete, why, old if kept else None)


def repair_all(
    directory: Path, keep: bool = False, only_open: bool = False
) -> Iterator[Repaired | BagError | OSError]:
    """Repair every bag below a directory, or give the error; sound ones and those being written are left out.

    `only_open` looks at bags that were never closed: to check all the others means to read them.
    """
    for old in sorted(directory.glob(f"*{DAMAGED}")):
        _undo_half_a_swap(old.with_name(old.name.removesuffix(DAMAGED)))
    for path in episode_bags(directory):
        if only_open and (path / "metadata.yaml").is_file():
            continue
        try:
            done = repair(path, keep)
        except BagBusyError:
            continue
        except (BagError, OSError) as error:
            yield error
            continue
        if done.why:
            yield done


def _undo_half_a_swap(path: Path) -> None:
    old = path.with_name(path.name + DAMAGED)
    if old.is_dir() and not path.exists():
        old.rename(path)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep off writers and other repairs. Raises BagBusyError where there is one."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BagBusyError(f"{file.parent}: is being written") from error
    finally:
        os.close(descriptor)


def _copy(prefix: SoundPrefix, writer: BagWriter) -> dict[str, str]:
    """Copy the messages that are sound; returns what is to be said about them."""
    store, collector = writer.typestore, EpisodeCollector()
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    custom: dict[str, str] = {}
    for record in prefix.records():
        if isinstance(record, Metadata) and record.name == "softflow" and is_intact(record.metadata):
            custom.update(record.metadata)
        elif isinstance(record, Schema):
            schemas[record.id] = record
            register(store, record.name, record.data.decode())
        elif isinstance(record, Channel):
            channels[record.id] = record
        elif isinstance(record, Message):
            channel = channels[record.channel_id]
            kind = schemas[channel.schema_id].name
            writer.write(channel.topic, kind, record.log_time, record.data)
            collector.add(channel.topic, store.deserialize_cdr(record.data, kind))
    if collector.assembler is None:
        return {**custom, "complete": "false", "why": "holds no episode", "steps": "0"}
    return {**custom, **describe(collector.assembler)}


def _copy_labels(path: Path, new: Path) -> None:
    if (path / LABELS).is_file():
        shutil.copyfile(path / LABELS, new / LABELS)
        fsync(new / LABELS)
        fsync(new)
