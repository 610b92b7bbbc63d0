"""A policy together with where it came from, checked against the task it is to play and what was announced of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from softflow_policy.policy import ChunkPolicy
from softflow_policy.versions import Announcement
from softflow_policy.weights import WeightsError, WeightsInfo, decode_weights, sha256
from softflow_tasks.task import Task


@dataclass(frozen=True)
class LoadedPolicy:
    """Weights in memory."""

    policy: ChunkPolicy
    info: WeightsInfo
    sha256: str
    """of the file, hex"""
    data: bytes = field(repr=False)
    """the file"""

    @property
    def size(self) -> int:
        """[bytes] of the file."""
        return len(self.data)


def load_policy(data: bytes, task: Task, said: Announcement | None = None) -> LoadedPolicy:
    """Decode a weights file for a task; `said` is what its learner announced.

    Raises:
        WeightsError: damaged, not finite, made for another task, or another file than the announced one; names
            field, value and bound.
    """
    policy, info = decode_weights(data, said.sha256 if said else None)
    if info.layout_hash != task.layout.hash:
        raise WeightsError(f"layout_hash is {info.layout_hash!r}, task {task.id} has {task.layout.hash!r}")
    sizes, wanted = (policy.spec.state_dim, policy.spec.action_dim), (task.layout.size, task.action_dim)
    if sizes != wanted:
        raise WeightsError(f"(state_dim, action_dim) is {sizes}, task {task.id} has {wanted}")
    if said is not None:
        _check_announced(policy, info, said)
    policy.settle()
    return LoadedPolicy(policy, info, said.sha256 if said else sha256(data), data)


def _check_announced(policy: ChunkPolicy, info: WeightsInfo, said: Announcement) -> None:
    """An old file must not come back under a new number, nor one network as another."""
    for name, found, announced in (
        ("version", info.version, said.version),
        ("spec_hash", policy.spec.spec_hash(), said.spec_hash),
        ("layout_hash", info.layout_hash, said.layout_hash),
    ):
        if found != announced:
            raise WeightsError(f"{name} of the file is {found!r}, the manifest said {announced!r}")
