"""Between the learner's plain Python and its messages."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from rclpy.serialization import deserialize_message
from softflow_msgs.msg import EpisodeSegment, ExperienceItem, ImageSequence, PolicyManifest, RewardLabel

from softflow_learner.canary import Part
from softflow_learner.journal import LABEL, About, Pushed
from softflow_learner.replay import Replay
from softflow_learner.shelf import Entry
from softflow_node.messages import numpy32


def from_item(message: ExperienceItem) -> Pushed:
    payload = bytes(message.payload)
    told = about(message.kind, payload)
    return Pushed(message.robot, message.boot, message.seq, message.crc32, payload, message.kind, told)


def about(kind: int, payload: bytes) -> About | None:
    try:
        if kind == LABEL:
            label: RewardLabel = deserialize_message(payload, RewardLabel)
            return About(label.episode_id, label.revision, 0)
        segment: EpisodeSegment = deserialize_message(payload, EpisodeSegment)
    except Exception:  # rclpy says nothing about what damaged bytes raise; the replay refuses them by name
        return None
    return About(segment.episode_id, segment.start_step, segment.start_step + segment.steps)


def add_label(replay: Replay, payload: bytes) -> int:
    """Change rewards in the replay as a stored label says; returns their number.

    Raises:
        ValueError: not a label, or of an episode or steps that the replay does not have.
    """
    try:
        label: RewardLabel = deserialize_message(payload, RewardLabel)
    except Exception as error:  # rclpy says nothing about what damaged bytes raise
        raise ValueError(f"payload of {len(payload)} bytes is not a reward label: {error}") from error
    return replay.relabel(label.episode_id, label.start_step, np.array(numpy32(label.values)), label.revision)


def add_payload(replay: Replay, payload: bytes, layout_hash: str) -> int:
    """Add one stored payload to the replay; returns its steps.

    Raises:
        ValueError: not a segment, of another layout, or with wrong sizes; names field, value and bound.
    """
    try:
        segment: EpisodeSegment = deserialize_message(payload, EpisodeSegment)
    except Exception as error:  # rclpy says nothing about what damaged bytes raise
        raise ValueError(f"payload of {len(payload)} bytes is not an episode segment: {error}") from error
    if segment.layout_hash != layout_hash:
        raise ValueError(f"layout_hash is {segment.layout_hash!r}, this learner's task has {layout_hash!r}")
    n, s, a = segment.steps, segment.state_dim, segment.action_dim
    for name, wanted in (("states", (n + 1) * s), ("actions", n * a), ("rewards", n), ("interventions", n)):
        if len(getattr(segment, name)) != wanted:
            raise ValueError(f"{name} has {len(getattr(segment, name))} values, must have {wanted}")
    return replay.add_episode_segment(
        np.array(numpy32(segment.states)).reshape(n + 1, s),
        np.array(numpy32(segment.actions)).reshape(n, a),
        np.array(numpy32(segment.rewards)),
        terminated=segment.terminated,
        truncated=segment.truncated,
        source=segment.source,
        episode_id=segment.episode_id,
        final=segment.final,
        start_step=segment.start_step,
        interventions=np.array(segment.interventions, dtype=np.bool_),
        images={sequence.camera: _split(sequence) for sequence in segment.images},
    )


def _split(sequence: ImageSequence) -> list[bytes]:
    data, ends = bytes(sequence.data), [0, *sequence.ends]
    return [data[start:end] for start, end in pairwise(ends)]


def canary_part(payload: bytes) -> Part:
    """What a canary needs of a stored payload, which must be a segment."""
    segment: EpisodeSegment = deserialize_message(payload, EpisodeSegment)
    return Part(
        episode_id=segment.episode_id,
        start_step=segment.start_step,
        versions=list(segment.policy_versions),
        rewards=list(segment.rewards),
        final=segment.final,
        intervened=any(segment.interventions),
    )


def to_manifest(entry: Entry) -> PolicyManifest:
    return PolicyManifest(
        version=entry.version,
        parent=entry.parent,
        sha256=entry.sha256,
        size=entry.size,
        spec_hash=entry.spec_hash,
        layout_hash=entry.layout_hash,
        state=int(entry.state),
        gradient_step=entry.gradient_step,
        stage=entry.stage,
        reason=entry.reason,
    )
