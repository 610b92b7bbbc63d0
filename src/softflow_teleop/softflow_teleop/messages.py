"""Between teleoperation's plain Python and its messages."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import JointState
from softflow_msgs.msg import ActionChunk, HandDescription, HandState, RewardLabel

from softflow_node.messages import NANOSECONDS, floats32, floats64, from_stamp, to_stamp
from softflow_teleop.joints import FloatArray, HandLimits

SOURCE = "teleop"
"""Of chunks; the driver lets it take the hand from a policy, the recorder tells its steps apart."""
HUMAN_REVISION = 1
"""Above that of the task's own rewards."""


def from_description(message: HandDescription) -> HandLimits:
    """What steering has to know of the hand."""
    arrays = (
        np.array(values, dtype=np.float64) for values in (message.lower, message.upper, message.max_velocity)
    )
    return HandLimits(tuple(message.joint_names), *arrays)


def to_chunk(actions: FloatArray, state: HandState, dt: float, expiry: float) -> ActionChunk:
    """All of `actions` (h, A) are to be played. `dt` and `expiry` in [s]."""
    horizon, action_dim = actions.shape
    chunk = ActionChunk(
        episode_id=state.episode_id,
        chunk_id=state.step + 1,
        obs_step=state.step,
        source=SOURCE,
        dt=dt,
        horizon=horizon,
        action_dim=action_dim,
        actions=floats32(actions),
        log_prob=float("nan"),
        q_value=float("nan"),
        execute_steps=horizon,
        expiry=to_stamp(from_stamp(state.header.stamp) + round(expiry * NANOSECONDS)),
    )
    chunk.header.stamp = state.header.stamp
    return chunk


def to_label(state: HandState, value: float) -> RewardLabel:
    """A reward for the last step before this state. Raises ValueError before the first one."""
    if not state.episode_id or state.step == 0:
        raise ValueError("no step of an episode to reward yet")
    label = RewardLabel(
        episode_id=state.episode_id,
        start_step=state.step - 1,
        values=floats32(np.array([value])),
        source="human",
        confidence=1.0,
        revision=HUMAN_REVISION,
    )
    label.header.stamp = state.header.stamp
    return label


def to_targets(limits: HandLimits, pose: FloatArray) -> JointState:
    """Joint targets (J,) as any device sends them."""
    return JointState(name=list(limits.names), position=floats64(pose))
