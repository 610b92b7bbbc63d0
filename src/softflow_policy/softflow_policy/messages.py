"""Between the policy's plain Python and its messages."""

from __future__ import annotations

from softflow_msgs.msg import ActionChunk, Observation, PolicyManifest

from softflow_node.messages import NANOSECONDS, floats32, from_stamp, to_stamp
from softflow_policy.loaded import LoadedPolicy
from softflow_policy.policy import PlannedChunk


def to_chunk(
    planned: PlannedChunk,
    observation: Observation,
    active: LoadedPolicy,
    dt: float,
    execute_steps: int,
    expiry: float,
) -> ActionChunk:
    """`dt` and `expiry` in [s]; the chunk's id is its start step plus one, so that a repetition is recognised."""
    horizon, action_dim = planned.actions.shape
    message = ActionChunk(
        episode_id=observation.episode_id,
        chunk_id=observation.step + 1,
        obs_id=observation.obs_id,
        obs_step=observation.step,
        source="policy",
        policy_version=active.info.version,
        policy_sha256=active.sha256,
        dt=dt,
        horizon=horizon,
        action_dim=action_dim,
        actions=floats32(planned.actions),
        log_prob=planned.log_prob,
        q_value=planned.q,
        execute_steps=execute_steps or horizon,
        expiry=to_stamp(from_stamp(observation.header.stamp) + round(expiry * NANOSECONDS)),
    )
    message.header.stamp = observation.header.stamp
    return message


def to_manifest(loaded: LoadedPolicy, state: int) -> PolicyManifest:
    """What is in force (or offered)."""
    info = loaded.info
    return PolicyManifest(
        version=info.version,
        parent=info.parent,
        sha256=loaded.sha256,
        size=loaded.size,
        spec_hash=loaded.policy.spec.spec_hash(),
        layout_hash=info.layout_hash,
        state=state,
        gradient_step=info.gradient_step,
        stage=info.stage,
    )
