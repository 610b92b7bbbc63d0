"""Between the driver's plain Python and its messages."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import JointState
from softflow_msgs.msg import ActionChunk, ChunkResult, HandDescription, HandHealth, HandState, ObjectState
from trajectory_msgs.msg import JointTrajectory

from hand_driver.control import Driver
from hand_driver.device import Description, ObjectReading, Reading
from hand_driver.hand_spec import HandSpec
from hand_driver.playback import Chunk, Playing
from hand_driver.safety import Refusal
from hand_driver.safety_lease import Priority
from hand_driver.step import Step
from hand_driver.trajectory import Trajectory, checked_trajectory
from softflow_node.messages import NANOSECONDS, floats32, floats64, from_stamp, numpy32, to_stamp

BASE_FRAME = "hand_base"
PRIORITIES = {HandHealth.PRIORITY_POLICY: Priority.POLICY, HandHealth.PRIORITY_HUMAN: Priority.HUMAN}


def to_description(
    description: Description, spec: HandSpec, calibration_hash: str, stamp: int
) -> HandDescription:
    message = HandDescription(
        hand=description.hand,
        backend=description.backend,
        joint_names=list(description.joint_names),
        lower=floats64(description.lower),
        upper=floats64(description.upper),
        max_velocity=floats64(description.max_velocity),
        max_acceleration=floats64(spec.values("max_acceleration")),
        neutral=floats64(spec.values("neutral")),
        soft_current=floats64(spec.values("soft_current")),
        max_current=floats64(spec.values("max_current")),
        action_names=list(description.action_names),
        control_rate=description.control_rate,
        calibration_hash=calibration_hash,
    )
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = BASE_FRAME
    return message


def to_hand_state(step: Step, reading: Reading, chunk_id: int, steps_left: int) -> HandState:
    message = HandState(
        episode_id=step.episode_id,
        seed=step.seed,
        step=step.step,
        position=floats32(reading.position),
        velocity=floats32(reading.velocity),
        current=floats32(reading.current),
        valid=reading.valid.tolist(),
        applied_action=floats32(step.applied),
        command=floats32(step.command),
        chunk_id=chunk_id,
        steps_left=steps_left,
        starved=step.starved,
        source=step.source,
        stiffness=floats32(step.stiffness),
    )
    message.header.stamp = to_stamp(step.stamp)
    message.header.frame_id = BASE_FRAME
    return message


def to_joint_state(step: Step, reading: Reading, names: list[str]) -> JointState:
    """`effort` is the current [A]."""
    message = JointState(
        name=names,
        position=floats64(reading.position),
        velocity=floats64(reading.velocity),
        effort=floats64(reading.current),
    )
    message.header.stamp = to_stamp(step.stamp)
    message.header.frame_id = BASE_FRAME
    return message


def to_health(driver: Driver, mode: int, reason: str, now: float) -> HandHealth:
    """All of it but what the node counts. Before the hand was read for the first time, its temperatures are unknown."""
    safety, counters = driver.safety, driver.counters
    holder = safety.lease.current(now)
    priority = {v: k for k, v in PRIORITIES.items()}[safety.lease.priority]
    unknown = np.full(len(driver.spec.joints), np.nan)
    message = HandHealth(
        mode=mode,
        reason=reason,
        temperature=floats32(driver.reading.temperature if driver.has_read else unknown),
        derating=floats32(safety.derating),
        faults=[fault.text for fault in safety.faults.values()],
        holder=holder,
        holder_priority=priority if holder else HandHealth.PRIORITY_NONE,
        starved_steps=counters["starved_steps"],
        clamped_values=counters["clamped_values"],
        refused_targets=counters["refused_targets"],
        failed_reads=counters["failed_reads"],
        failed_writes=counters["failed_writes"],
    )
    message.header.stamp = to_stamp(driver.robot_ns)
    return message


def from_joint_trajectory(message: JointTrajectory, spec: HandSpec) -> tuple[Trajectory, float]:
    """The trajectory, and when it begins [s] on the robot clock, 0: now. Raises Refusal.

    Accelerations and efforts are left alone: the hand's own limits hold.
    """
    points = message.points
    trajectory = checked_trajectory(
        list(message.joint_names),
        [p.time_from_start.sec + p.time_from_start.nanosec / NANOSECONDS for p in points],
        [np.array(p.positions, dtype=np.float64) for p in points],
        [np.array(p.velocities, dtype=np.float64) for p in points],
        spec,
    )
    return trajectory, from_stamp(message.header.stamp) / NANOSECONDS


def to_object_state(step: Step, obj: ObjectReading) -> ObjectState:
    message = ObjectState(
        episode_id=step.episode_id, step=step.step, object_name=obj.name, source="simulation", valid=True
    )
    message.header.stamp = to_stamp(step.stamp)
    message.header.frame_id = BASE_FRAME
    pose, twist = message.pose, message.twist
    pose.position.x, pose.position.y, pose.position.z = obj.position.tolist()
    q = pose.orientation
    q.x, q.y, q.z, q.w = obj.quaternion.tolist()
    twist.linear.x, twist.linear.y, twist.linear.z = obj.linear.tolist()
    twist.angular.x, twist.angular.y, twist.angular.z = obj.angular.tolist()
    return message


def from_chunk(message: ActionChunk) -> Chunk:
    """Raises Refusal when the sizes contradict each other."""
    count, shape = len(message.actions), (message.horizon, message.action_dim)
    if count != shape[0] * shape[1] or count == 0:
        raise Refusal(f"actions has {count} values, horizon*action_dim is {shape[0]}*{shape[1]}")
    return Chunk(
        episode_id=message.episode_id,
        chunk_id=message.chunk_id,
        obs_id=message.obs_id,
        obs_step=message.obs_step,
        source=message.source,
        policy_version=message.policy_version,
        policy_sha256=message.policy_sha256,
        log_prob=message.log_prob,
        dt=message.dt,
        actions=numpy32(message.actions).astype(np.float64).reshape(shape),
        execute_steps=message.execute_steps,
        expiry=from_stamp(message.expiry) / NANOSECONDS,
    )


def to_result(playing: Playing, reason: int, stamp: int, detail: str = "") -> ChunkResult:
    chunk, applied = playing.chunk, np.array(playing.applied)
    message = ChunkResult(
        episode_id=chunk.episode_id,
        chunk_id=chunk.chunk_id,
        obs_id=chunk.obs_id,
        start_step=playing.start_step,
        executed_steps=len(playing.applied),
        action_dim=chunk.actions.shape[1],
        applied=floats32(applied),
        modified=playing.modified,
        policy_version=chunk.policy_version,
        source=chunk.source,
        log_prob=float("nan") if playing.modified else chunk.log_prob,
        reason=reason,
        detail=detail,
    )
    message.header.stamp = to_stamp(stamp)
    return message


def to_refusal(message: ActionChunk, error: Refusal, stamp: int) -> ChunkResult:
    result = ChunkResult(
        episode_id=message.episode_id,
        chunk_id=message.chunk_id,
        obs_id=message.obs_id,
        policy_version=message.policy_version,
        source=message.source,
        log_prob=float("nan"),
        reason=ChunkResult.REFUSED,
        detail=str(error),
    )
    result.header.stamp = to_stamp(stamp)
    return result
