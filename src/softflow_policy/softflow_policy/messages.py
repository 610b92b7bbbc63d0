"""Between the policy's plain Python and its messages."""

from __future__ import annotations

from array import array

from softflow_msgs.msg import ActionChunk, Observation, PolicyManifest, PolicyReceipt

from softflow_node.messages import NANOSECONDS, floats32, from_stamp, to_stamp
from softflow_policy.loaded import LoadedPolicy
from softflow_policy.policy import PlannedChunk
from softflow_policy.versions import Announcement, State
from softflow_policy.weights import WeightsError


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


def from_manifest(message: PolicyManifest) -> Announcement:
    """Raises WeightsError that names field, value and bound."""
    try:
        state = State(message.state)
    except ValueError:
        known = ", ".join(f"{s.value} ({s.name.lower()})" for s in State)
        raise WeightsError(
            f"state of version {message.version} is {message.state}, allowed: {known}"
        ) from None
    return Announcement(
        message.version, message.sha256, message.size, message.spec_hash, message.layout_hash, state
    )


def to_receipt(
    robot: str, version: int, sha256: str, outcome: int, detail: str = "", swap_time: float = 0.0
) -> PolicyReceipt:
    """`swap_time` in [s]; the header is the sender's."""
    return PolicyReceipt(
        robot=robot,
        version=version,
        sha256=sha256,
        outcome=outcome,
        detail=detail,
        swap_time=swap_time,
        mac=array("B"),
    )


def to_manifest(loaded: LoadedPolicy, state: State) -> PolicyManifest:
    """What is in force, or played beside it."""
    info = loaded.info
    return PolicyManifest(
        version=info.version,
        parent=info.parent,
        sha256=loaded.sha256,
        size=loaded.size,
        spec_hash=loaded.policy.spec.spec_hash(),
        layout_hash=info.layout_hash,
        state=int(state),
        gradient_step=info.gradient_step,
        stage=info.stage,
    )
