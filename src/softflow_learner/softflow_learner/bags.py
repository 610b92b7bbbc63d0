"""From bags into the replay, and into the journal of a learner that has nothing else. Plain Python."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softflow_learner.journal import FILE, SEGMENT, About, Journal, Pushed
from softflow_learner.replay import NOBODY, Replay
from softflow_node.files import fsync
from softflow_recorder.bag import BagError, Summary, episode_bags, read_episode, read_summary
from softflow_recorder.episode import EpisodeData

TRAIN = "train"
USABLE_IN_PART = ("train", "demo")
"""Modes of which the beginning of an episode is worth learning from, where a crash took the rest."""
BOOT = "bags"
"""Stands in the journal for the recorder's."""


def load_bags(
    replay: Replay, directory: Path, layout_hash: str, successful_only: bool = False
) -> tuple[int, list[str]]:
    """Add every episode below `directory`, by the bags' names; returns (how many, a line for each refused bag).

    Of one that a repair recovered, its beginning.

    With `successful_only` the episodes that did not succeed are for the critic alone, and not counted. A human's
    label of the last step says whether one did, else what the task announced.

    Raises:
        ValueError: the directory holds no bag that can be used.
    """
    added, refused = 0, []
    for path in episode_bags(directory):
        try:
            episode = _read(path, read_summary(path))
            if episode.layout_hash != layout_hash:
                raise ValueError(
                    f"{path}: layout_hash is {episode.layout_hash!r}, the task has {layout_hash!r}"
                )
            if episode.source == NOBODY:
                raise ValueError(
                    f"{path}: source is {NOBODY!r}, must be who acted: nobody planned in the episode"
                )
            failed = successful_only and not episode.succeeded
            add_episode(replay, episode, failed=failed)
            added += not failed
        except ValueError as error:
            refused.append(str(error))
    if not added:
        kind = "successful episode" if successful_only else "usable episode"
        raise ValueError(f"demos: {str(directory)!r} holds no {kind}{_reason(refused)}")
    return added, refused


def _reason(refused: Sequence[str]) -> str:
    return f" ({refused[0]})" if refused else ""


def add_episode(replay: Replay, episode: EpisodeData, *, failed: bool = False) -> int:
    """Add a whole episode; returns its steps. `failed`: not to be imitated. Raises SegmentError, ReplayFullError."""
    return replay.add_episode_segment(
        episode.states,
        episode.actions,
        episode.rewards,
        terminated=episode.terminated,
        truncated=episode.truncated,
        source=episode.source,
        episode_id=episode.episode_id,
        final=True,
        interventions=episode.interventions,
        images=episode.images,
        failed=failed,
    )


def _read(path: Path, summary: Summary | None) -> EpisodeData:
    partly = summary is not None and summary.recovered and summary.mode in USABLE_IN_PART
    return read_episode(path, recovered=partly)


@dataclass
class Rebuilt:
    """What was found in bags."""

    episodes: dict[str, int] = field(default_factory=dict)
    """By robot."""
    steps: int = 0
    items: int = 0
    others: int = 0
    """Bags of demonstrations and evaluations."""
    refused: list[str] = field(default_factory=list)
    """A line for each bag that could not be used."""


def rebuild_journal(
    directory: Path,
    bags: Sequence[Path],
    layout_hash: str,
    payloads: Callable[[str, EpisodeData], Sequence[bytes]],
    about: Callable[[int, bytes], About | None],
) -> Rebuilt:
    """Write what the robots of these bags would have handed over: robot by robot, each one's bags by name.

    Args:
        directory: of the journal to be made; what an interrupted call left there goes.
        bags: directories of bags, of any number of robots.
        layout_hash: of the task.
        payloads: of (robot, episode), as the recorder makes them.
        about: what (kind, payload) is about.

    Raises:
        ValueError: the bags hold no episode of training.
    """
    shutil.rmtree(directory, ignore_errors=True)
    found, done = _closed_bags(bags)
    known: set[str] = set()
    journal, numbers = Journal(directory), dict[str, int]()
    for summary in found:
        if summary.mode != TRAIN:
            done.others += 1
            continue
        try:
            episode = _read(summary.path, summary)
            if episode.layout_hash != layout_hash:
                raise BagError(
                    f"{summary.path}: layout_hash is {episode.layout_hash!r}, the task has {layout_hash!r}"
                )
            if episode.episode_id in known:
                raise BagError(f"{summary.path}: episode {episode.episode_id!r} was in a bag before it")
        except BagError as error:
            done.refused.append(str(error))
            continue
        known.add(episode.episode_id)
        for payload in payloads(summary.robot, episode):
            seq = numbers[summary.robot] = numbers.get(summary.robot, 0) + 1
            item = Pushed(
                summary.robot, BOOT, seq, zlib.crc32(payload), payload, SEGMENT, about(SEGMENT, payload)
            )
            if why := journal.add([item]).error:
                raise ValueError(why)
            done.items += 1
        done.episodes[summary.robot] = done.episodes.get(summary.robot, 0) + 1
        done.steps += episode.steps
    if not done.episodes:
        raise ValueError(f"bags: no episode of training that can be used{_reason(done.refused)}")
    return done


def require_empty(directory: Path) -> None:
    """Raises ValueError if a journal holds items."""
    held = sum(Journal(directory).robots().values()) if (directory / FILE).exists() else 0
    if held:
        raise ValueError(f"{directory} holds {held} items, must be empty: move it away first")


def replace(directory: Path, new: Path) -> None:
    """Put a new journal where an empty one or none is. Raises ValueError, OSError."""
    require_empty(directory)
    shutil.rmtree(directory, ignore_errors=True)
    new.rename(directory)
    fsync(directory.parent)


def _closed_bags(directories: Sequence[Path]) -> tuple[list[Summary], Rebuilt]:
    found, done = [], Rebuilt()
    for path in (path for directory in directories for path in episode_bags(directory)):
        try:
            summary = read_summary(path)
            if summary is None:
                raise BagError(f"{path}: was never closed: softflow bags repair")
            found.append(summary)
        except BagError as error:
            done.refused.append(str(error))
    return sorted(found, key=lambda s: (s.robot, s.path.name)), done
