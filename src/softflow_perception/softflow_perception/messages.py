"""Between messages and the samples of a task."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from softflow_msgs.msg import HandState, ObjectState, Observation

from softflow_node.messages import floats32, numpy32, to_stamp
from softflow_perception.alignment import Aligned
from softflow_tasks.task import HandSample, ObjectSample, StateVector, Task


def to_hand_sample(message: HandState, joints: int, actions: int) -> HandSample:
    """Raises ValueError that names the field, its size and the size it must have."""
    sizes = {"position": joints, "velocity": joints, "applied_action": actions, "command": joints}
    for name, size in sizes.items():
        if len(getattr(message, name)) != size:
            raise ValueError(f"{name} has {len(getattr(message, name))} values, must have {size}")
    return HandSample(
        numpy32(message.position).astype(np.float64),
        numpy32(message.velocity).astype(np.float64),
        numpy32(message.applied_action).astype(np.float64),
        numpy32(message.command).astype(np.float64),
    )


def to_object_sample(message: ObjectState) -> ObjectSample:
    p, q = message.pose.position, message.pose.orientation
    v, w = message.twist.linear, message.twist.angular
    return ObjectSample(
        np.array([p.x, p.y, p.z]),
        np.array([q.x, q.y, q.z, q.w]),
        np.array([v.x, v.y, v.z]),
        np.array([w.x, w.y, w.z]),
    )


def to_observation(
    task: Task,
    state: StateVector,
    hand: HandState,
    aligned: Aligned[object],
    obs_id: int,
    unseen: Collection[str] = (),
    images: Sequence[str] = (),
) -> Observation:
    """`images`: references, `topic@nanoseconds`."""
    message = Observation(
        episode_id=hand.episode_id,
        seed=hand.seed,
        step=hand.step,
        obs_id=obs_id,
        steps_left=hand.steps_left,
        task=task.id,
        layout_hash=task.layout.hash,
        state=floats32(state),
        applied_action=hand.applied_action,
        sensor_names=list(aligned.stamps),
        sensor_stamps=[to_stamp(s) for s in aligned.stamps.values()],
        sensor_valid=[name not in unseen for name in aligned.stamps],
        skew=aligned.skew,
        images=list(images),
    )
    message.header.stamp = to_stamp(max(aligned.stamps.values()))
    message.header.frame_id = hand.header.frame_id
    return message
