"""A policy together with where it came from, checked against the task it is to play."""

from __future__ import annotations

from dataclasses import dataclass

from softflow_policy.policy import ChunkPolicy
from softflow_policy.weights import WeightsError, WeightsInfo, decode_weights, sha256
from softflow_tasks.task import Task


@dataclass(frozen=True)
class LoadedPolicy:
    """Weights in memory."""

    policy: ChunkPolicy
    info: WeightsInfo
    sha256: str
    """of the file, hex"""
    size: int
    """[bytes] of the file"""


def load_policy(data: bytes, task: Task) -> LoadedPolicy:
    """Decode a weights file for a task.

    Raises:
        WeightsError: damaged, not finite, or made for another task; names field, value and bound.
    """
    policy, info = decode_weights(data)
    if info.layout_hash != task.layout.hash:
        raise WeightsError(f"layout_hash is {info.layout_hash!r}, task {task.id} has {task.layout.hash!r}")
    sizes, wanted = (policy.spec.state_dim, policy.spec.action_dim), (task.layout.size, task.action_dim)
    if sizes != wanted:
        raise WeightsError(f"(state_dim, action_dim) is {sizes}, task {task.id} has {wanted}")
    return LoadedPolicy(policy, info, sha256(data), len(data))
