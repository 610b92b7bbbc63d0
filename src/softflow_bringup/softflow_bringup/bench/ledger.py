"""An audit of what robots recorded against what learners stored, by code that shares nothing with either.

Bags are read with the `mcap` library, the journal as plain files; `rosbags` decodes both. Nothing of softflow_recorder
or softflow_learner takes part.
"""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mcap.reader import make_reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

TERMINATED, TRUNCATED = 1, 2
"""EpisodeEvent.kind of the ends that are learned from."""
_HEAD = struct.Struct("<4sIII")
"""Of a record: magic, bytes of the header, bytes of the payload, crc32 of all but magic and itself."""
SEGMENT = "softflow_msgs/msg/EpisodeSegment"


@dataclass(frozen=True)
class Steps:
    """n transitions as bytes of float32."""

    states: bytes
    """(n+1, S)"""
    actions: bytes
    """(n, A)"""
    rewards: bytes
    """(n,)"""

    @property
    def count(self) -> int:
        """n"""
        return len(self.rewards) // 4


@dataclass(frozen=True)
class Item:
    """A stored item."""

    robot: str
    boot: str
    seq: int
    payload: bytes
    """Empty where the item was noted as one that is there under another number."""
    kind: int = 0
    """Of ExperienceItem; 0 = a segment"""


@dataclass
class Audit:
    """What was compared, and every fault that was found, in words."""

    episodes: int = 0
    """Closed bags of episodes for training."""
    left_open: int = 0
    """Bags that were never closed."""
    items: int = 0
    transitions: int = 0
    waiting: int = 0
    """Items in a spool that were not acknowledged."""
    by_robot: dict[str, int] = field(default_factory=dict)
    """Items of each robot."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Stored, but in no bag."""
    numbering: list[str] = field(default_factory=list)
    """Gaps and repeats among (robot, boot, seq), acknowledged items that are not stored."""

    @property
    def faults(self) -> list[str]:
        """All of them."""
        return [*self.lost, *self.doubled, *self.different, *self.foreign, *self.numbering]


def audit(robots: Sequence[Path], journal: Path, messages: Path) -> Audit:
    """Compare run directories of robots (with bags/ and spool/) with the journal of the learner that has them all.

    Args:
        robots: every robot that handed over to this learner.
        journal: directory of the file `journal`.
        messages: directory of the .msg files of softflow_msgs.
    """
    report = Audit()
    recorded: dict[str, Steps] = {}
    for robot in robots:
        for path in sorted((robot / "bags").glob("*/")):
            if not (path / "metadata.yaml").is_file():
                report.left_open += 1
            elif (found := bag_episode(path)) is not None:
                if found[0] in recorded:
                    report.doubled.append(f"episode {found[0]} is in two bags, {path.name} is one")
                recorded[found[0]] = found[1]
        report.waiting += waiting_items(robot / "spool")
    report.episodes = len(recorded)
    items = list(journal_items(journal))
    _compare(report, recorded, items, _segment_types(messages))
    for robot in robots:
        _check_acknowledged(report, robot / "spool", items)
    return report


# -- The robots' side


def bag_episode(path: Path) -> tuple[str, Steps] | None:
    """Episode id and steps of a closed bag; None where it is not for training, or was not ended and not recovered."""
    about = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    recovered = (about.get("custom_data") or {}).get("recovered") == "true"
    observations: dict[int, tuple[bytes, bytes]] = {}
    rewards: dict[int, tuple[int, float]] = {}
    event = end = None
    for topic, message in _bag_messages(path):
        if topic.endswith("/episode_event"):
            event = message
            end = message if message.kind != 0 else end
        elif topic.endswith("/observation"):
            values = (message.state.tobytes(), message.applied_action.tobytes())
            observations.setdefault(message.step, values)
        elif topic.endswith("/reward_label"):
            for step, value in enumerate(message.values, start=message.start_step):
                rewards[step] = max(rewards.get(step, (-1, 0.0)), (message.revision, float(value)))
    if event is None or event.mode != "train":
        return None
    count = 0
    while count in rewards and count in observations and count + 1 in observations:
        count += 1
    ended = end is not None and end.kind in (TERMINATED, TRUNCATED) and end.last_step == count
    if end is not None and end.kind not in (TERMINATED, TRUNCATED):
        return None
    if count == 0 or not (ended or recovered):
        return None
    return event.episode_id, Steps(
        states=b"".join(observations[step][0] for step in range(count + 1)),
        actions=b"".join(observations[step][1] for step in range(1, count + 1)),
        rewards=array("f", [rewards[step][1] for step in range(count)]).tobytes(),
    )


def _bag_messages(path: Path) -> Iterator[tuple[str, Any]]:
    store = get_typestore(Stores.ROS2_JAZZY)
    [file] = path.glob("*.mcap")
    with file.open("rb") as stream:
        for schema, channel, message in make_reader(stream).iter_messages():
            if not channel.topic.endswith(("/episode_event", "/observation", "/reward_label")):
                continue
            assert schema is not None
            if schema.name not in store.fielddefs:
                types = get_types_from_msg(schema.data.decode(), schema.name)
                store.register({k: v for k, v in types.items() if k not in store.fielddefs})
            yield channel.topic, store.deserialize_cdr(message.data, schema.name)


def waiting_items(spool: Path) -> int:
    """Items that are not acknowledged, of the boot that counts."""
    if not (spool / "current").is_file():
        return 0
    folder = spool / (spool / "current").read_text()
    told = folder / "acknowledged"
    acknowledged = int(told.read_text()) if told.exists() else 0
    return sum(int(path.stem.split("-")[0]) > acknowledged for path in folder.glob("*.item"))


# -- The learner's side


def journal_items(journal: Path) -> Iterator[Item]:
    """Everything that a learner has stored, in the order in which it came; ends at the first byte that is no record."""
    file, at = journal / "journal", 0
    data = file.read_bytes() if file.exists() else b""
    while at + _HEAD.size <= len(data):
        magic, header_size, payload_size, crc = _HEAD.unpack_from(data, at)
        middle = at + _HEAD.size + header_size
        end = middle + payload_size
        if (
            magic != b"SFJ1"
            or end > len(data)
            or zlib.crc32(data[at + 4 : at + 12] + data[at + 16 : end]) != crc
        ):
            return
        header = json.loads(data[at + _HEAD.size : middle])
        yield Item(
            header["robot"].strip("/"), header["boot"], header["seq"], data[middle:end], header["kind"]
        )
        at = end


def _segment_types(messages: Path) -> Typestore:
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name in ("EpisodeSegment", "ImageSequence"):
        types.update(get_types_from_msg((messages / f"{name}.msg").read_text(), f"softflow_msgs/msg/{name}"))
    store.register({name: definition for name, definition in types.items() if name not in store.fielddefs})
    return store


def _compare(report: Audit, recorded: dict[str, Steps], items: list[Item], store: Typestore) -> None:
    """One journal against all bags."""
    pieces: dict[str, list[Any]] = defaultdict(list)
    stored = [item for item in items if item.payload and item.kind == 0]
    for item in stored:
        segment = store.deserialize_cdr(item.payload, SEGMENT)
        pieces[segment.episode_id].append(segment)
    report.items += len(stored)
    for robot, count in Counter(item.robot for item in stored).items():
        report.by_robot[robot] = report.by_robot.get(robot, 0) + count
    for episode_id in recorded.keys() - pieces.keys():
        report.lost.append(f"episode {episode_id} ({recorded[episode_id].count} steps) is in a bag only")
    for episode_id, segments in pieces.items():
        if episode_id not in recorded:
            report.foreign.append(f"episode {episode_id} is in no closed bag")
            continue
        report.transitions += sum(int(segment.steps) for segment in segments)
        _compare_episode(report, episode_id, recorded[episode_id], segments)
    _check_numbers(report, items)


def _compare_episode(report: Audit, episode_id: str, wanted: Steps, segments: list[Any]) -> None:
    expected = 0
    for segment in sorted(segments, key=lambda s: (s.start_step, s.steps)):
        if segment.start_step != expected:
            kind = report.doubled if segment.start_step < expected else report.lost
            kind.append(f"episode {episode_id}: a piece starts at {segment.start_step}, not at {expected}")
            return
        expected = segment.start_step + segment.steps
        if _cut(wanted, segment) != _steps(segment):
            report.different.append(
                f"episode {episode_id}: steps from {segment.start_step} differ from the bag's"
            )
    if expected != wanted.count:
        report.lost.append(f"episode {episode_id}: {expected} steps are stored, the bag has {wanted.count}")


def _steps(segment: Any) -> Steps:
    return Steps(segment.states.tobytes(), segment.actions.tobytes(), segment.rewards.tobytes())


def _cut(whole: Steps, segment: Any) -> Steps:
    """The part of an episode that a piece should hold."""
    first, last = segment.start_step, segment.start_step + segment.steps
    state, action = 4 * segment.state_dim, 4 * segment.action_dim
    return Steps(
        whole.states[first * state : (last + 1) * state],
        whole.actions[first * action : last * action],
        whole.rewards[4 * first : 4 * last],
    )


def _check_numbers(report: Audit, items: list[Item]) -> None:
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for item in items:
        numbers[item.robot, item.boot].append(item.seq)
    for (robot, boot), found in numbers.items():
        wanted = list(range(1, len(found) + 1))
        if sorted(found) != wanted:
            off = sorted(set(wanted) ^ set(found))[:5]
            report.numbering.append(f"{robot} {boot[:8]}: {len(found)} items, numbers off: {off}")


def _check_acknowledged(report: Audit, spool: Path, items: list[Item]) -> None:
    """What the robot forgot because it was acknowledged must be with the learner."""
    if not (spool / "current").is_file():
        return
    boot = (spool / "current").read_text()
    told = spool / boot / "acknowledged"
    acknowledged = int(told.read_text()) if told.exists() else 0
    stored = {item.seq for item in items if item.boot == boot}
    missing = sorted(set(range(1, acknowledged + 1)) - stored)
    if missing:
        report.numbering.append(f"{spool}: {acknowledged} acknowledged, not stored: {missing[:5]}")
