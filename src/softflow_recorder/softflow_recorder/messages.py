"""Between assembled episodes and messages."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate

from rclpy.serialization import serialize_message
from softflow_msgs.msg import EpisodeSegment, ExperienceItem, ImageSequence, RewardLabel

from softflow_node.messages import floats32, to_stamp
from softflow_recorder.episode import EpisodeData
from softflow_recorder.labels import Label
from softflow_recorder.spool import Item

ITEM_BYTES = 1_000_000
"""Of a segment, about; one step has room whatever its size."""
_FIXED_BYTES = 2_000
"""Of the fields that do not grow with the steps."""
_ENCODINGS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}
"""How an image begins."""


def to_segment(robot: str, episode: EpisodeData, start: int, stop: int) -> EpisodeSegment:
    """Steps `start` to `stop` of an episode, with their stop - start + 1 states."""
    final = stop == episode.steps
    steps, states = slice(start, stop), slice(start, stop + 1)
    return EpisodeSegment(
        robot=robot,
        episode_id=episode.episode_id,
        task=episode.task,
        layout_hash=episode.layout_hash,
        source=episode.source,
        mode=episode.mode,
        start_step=start,
        steps=stop - start,
        state_dim=episode.states.shape[1],
        action_dim=episode.actions.shape[1],
        states=floats32(episode.states[states]),
        actions=floats32(episode.actions[steps]),
        rewards=floats32(episode.rewards[steps]),
        policy_versions=array("Q", episode.policy_versions[steps].tobytes()),
        interventions=episode.interventions[steps].tolist(),
        images=[_sequence(name, images[states]) for name, images in episode.images.items()],
        final=final,
        terminated=final and episode.terminated,
        truncated=final and episode.truncated,
        success=final and episode.success,
        metric_names=list(episode.metrics) if final else [],
        metric_values=list(episode.metrics.values()) if final else [],
    )


def _sequence(camera: str, images: Sequence[bytes]) -> ImageSequence:
    encoding = next((name for start, name in _ENCODINGS.items() if images[0].startswith(start)), "")
    ends = array("I", accumulate(map(len, images)))
    return ImageSequence(camera=camera, encoding=encoding, ends=ends, data=array("B", b"".join(images)))


def to_payloads(robot: str, episode: EpisodeData) -> list[bytes]:
    """CDR bytes of an episode's segments, in order; the same ones each time."""
    return [
        bytes(serialize_message(to_segment(robot, episode, start, stop)))
        for start, stop in pieces(episode, ITEM_BYTES)
    ]


def pieces(episode: EpisodeData, limit: int) -> list[tuple[int, int]]:
    """(start, stop) of segments of at most about `limit` bytes, each as long as it can be."""
    values = 4 * (episode.states.shape[1] + episode.actions.shape[1] + 1) + 8 + 1
    images = [sum(len(track[i]) + 4 for track in episode.images.values()) for i in range(episode.steps + 1)]
    found, start = [], 0
    size = first = _FIXED_BYTES + 4 * episode.states.shape[1]
    size += images[0]
    for step in range(episode.steps):
        added = values + images[step + 1]
        if step > start and size + added > limit:
            found.append((start, step))
            start, size = step, first + images[step]
        size += added
    return [*found, (start, episode.steps)]


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
    """An item of the spool, ready to be sent.

    Raises:
        OSError, SpoolError: it cannot be read, or is not what was stored.
    """
    payload = item.payload()
    return ExperienceItem(
        robot=robot,
        boot=boot,
        seq=item.seq,
        kind=item.kind,
        crc32=item.crc32,
        payload=array("B", payload),
    )
