"""What a bag says about itself: rosbag2's metadata.yaml, and the recorder's words about the episode. Plain Python."""

from __future__ import annotations

import json
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from softflow_recorder.episode import EpisodeAssembler, EpisodeError

BAG_VERSION = 9
FORMAT = "softflow/1"
CHECKSUM = "crc32"
"""Key of `sealed` metadata."""


@dataclass
class Topic:
    """A topic of a bag."""

    name: str
    type: str
    type_hash: str
    messages: int = 0


def rosbag2_information(
    file: str, topics: Sequence[Topic], start: int, end: int, custom: Mapping[str, str]
) -> dict[str, Any]:
    """Metadata of rosbag2, version 9, for a bag of one MCAP file; `start` and `end` [ns] of its messages."""
    count = sum(topic.messages for topic in topics)
    span = {
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": count,
    }
    return {
        "version": BAG_VERSION,
        "storage_identifier": "mcap",
        "relative_file_paths": [file],
        **span,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [],
                    "type_description_hash": topic.type_hash,
                },
                "message_count": topic.messages,
            }
            for topic in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [{"path": file, **span}],
        "custom_data": dict(custom),
        "ros_distro": "jazzy",
    }


def sealed(custom: Mapping[str, str]) -> dict[str, str]:
    """The same with a checksum over all of it."""
    content = {key: value for key, value in custom.items() if key != CHECKSUM}
    text = json.dumps(content, sort_keys=True)
    return {**content, CHECKSUM: f"{zlib.crc32(text.encode()):08x}"}


def is_intact(custom: Mapping[str, str]) -> bool:
    """Whether nothing was changed since it was sealed; true of what never was."""
    return CHECKSUM not in custom or sealed(custom)[CHECKSUM] == custom[CHECKSUM]


def load_yaml(text: str) -> Any:
    """The quick parser where there is one: a recorder reads the metadata of all its bags when it starts."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def describe(assembler: EpisodeAssembler) -> dict[str, str]:
    """Everything about an episode that is to be known without reading its bag."""
    about, told = assembler.end or assembler.start, {"complete": "true"}
    try:
        metrics = assembler.finish().metrics
        told["success"] = str(bool(about.success)).lower()
    except EpisodeError as error:
        metrics = {}
        told = {"complete": "false", "why": str(error), "success": "false"}
    steps = assembler.usable_steps
    if about is not None:
        told |= {"index": str(about.episode_index), "mode": about.mode}
    return {
        **told,
        "discarded": str(assembler.discarded).lower(),
        "steps": str(steps),
        "task": assembler.task,
        "layout_hash": assembler.layout_hash,
        "source": assembler.source,
        "metrics": json.dumps(metrics),
        "policies": json.dumps(_played(assembler)),
        "label_revision": str(max((kept[0] for kept in assembler.rewards.values()), default=0)),
        "missing_messages": json.dumps(assembler.gaps.missing),
        **_hand(assembler.description),
    }


def _played(assembler: EpisodeAssembler) -> dict[str, str]:
    """Policy version -> sha256 of its weights, of all that acted."""
    return {str(v): assembler.weights.get(v, "") for v in sorted(set(assembler.versions.values())) if v}


def _hand(description: Any) -> dict[str, str]:
    if description is None:
        return {}
    lists = ("joint_names", "lower", "upper", "max_velocity", "action_names")
    hand = {name: list(getattr(description, name)) for name in lists}
    hand |= {name: getattr(description, name) for name in ("hand", "backend", "control_rate")}
    hand = {
        key: [float(v) if not isinstance(v, str) else v for v in value] if isinstance(value, list) else value
        for key, value in hand.items()
    }
    return {"hand": json.dumps(hand, sort_keys=True), "calibration_hash": str(description.calibration_hash)}


def software_version() -> str:
    """Version of the package, and the commit where it runs from its own repository."""
    installed = version("softflow_recorder")
    folder = Path(__file__).resolve().parent
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel"))
        if not (top / "src" / "softflow_recorder" / "package.xml").is_file():
            return installed  # a repository that merely surrounds the installation
        return f"{installed}+{_git(folder, 'describe', '--always', '--dirty', '--tags')}"
    except (OSError, subprocess.SubprocessError):
        return installed


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=5.0
    )
    return done.stdout.strip()
