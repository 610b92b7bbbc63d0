"""Between assembled episodes and messages."""

from __future__ import annotations

import zlib
from array import array

from rclpy.serialization import serialize_message
from softflow_msgs.msg import EpisodeSegment, ExperienceItem, RewardLabel

from softflow_node.messages import floats32, to_stamp
from softflow_recorder.episode import EpisodeData
from softflow_recorder.labels import Label
from softflow_recorder.spool import Item


def to_segment(robot: str, episode: EpisodeData) -> EpisodeSegment:
    """A whole episode as one segment."""
    return EpisodeSegment(
        robot=robot,
        episode_id=episode.episode_id,
        task=episode.task,
        layout_hash=episode.layout_hash,
        source=episode.source,
        mode=episode.mode,
        start_step=0,
        steps=episode.steps,
        state_dim=episode.states.shape[1],
        action_dim=episode.actions.shape[1],
        states=floats32(episode.states),
        actions=floats32(episode.actions),
        rewards=floats32(episode.rewards),
        policy_versions=array("Q", episode.policy_versions.tobytes()),
        interventions=episode.interventions.tolist(),
        final=True,
        terminated=episode.terminated,
        truncated=episode.truncated,
        success=episode.success,
        metric_names=list(episode.metrics),
        metric_values=list(episode.metrics.values()),
    )


def to_payload(robot: str, episode: EpisodeData) -> bytes:
    """CDR bytes of the segment."""
    return bytes(serialize_message(to_segment(robot, episode)))


def to_payloads(robot: str, episode: EpisodeData) -> list[bytes]:
    """Payloads of an episode, in order; the same ones each time."""
    return [to_payload(robot, episode)]


def to_reward_label(episode_id: str, label: Label) -> RewardLabel:
    """One revision of an episode's rewards."""
    message = RewardLabel(
        episode_id=episode_id,
        start_step=label.start,
        values=array("f", label.values),
        source=label.source,
        confidence=label.confidence,
        revision=label.revision,
    )
    message.header.stamp = to_stamp(label.stamp)
    return message


def to_label_payload(episode_id: str, label: Label) -> bytes:
    """CDR bytes of the label."""
    return bytes(serialize_message(to_reward_label(episode_id, label)))


def to_item(robot: str, boot: str, item: Item) -> ExperienceItem:
    """An item of the spool, ready to be sent."""
    payload = item.payload()
    return ExperienceItem(
        robot=robot,
        boot=boot,
        seq=item.seq,
        kind=item.kind,
        crc32=zlib.crc32(payload),
        payload=array("B", payload),
    )
