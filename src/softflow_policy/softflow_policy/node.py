"""The policy node: observation -> action chunk, and new weights at a chunk border."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rclpy.task import Future
from softflow_msgs.msg import ActionChunk, Observation, PolicyManifest
from softflow_msgs.srv import FetchPolicyBlock

from softflow_node.authentication import AuthenticationError
from softflow_node.messages import check_message, numpy32
from softflow_node.node import SoftflowNode, latched, run_node, stream
from softflow_node.parameters import ParameterError, bounded
from softflow_policy.download import Download
from softflow_policy.loaded import LoadedPolicy, load_policy
from softflow_policy.messages import to_chunk, to_manifest
from softflow_policy.policy import chunk_noise
from softflow_policy.weights import WeightsError
from softflow_tasks import make_task, task_ids

FETCH_TIMEOUT = 5.0
"""[s] after which a block is asked for again."""


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of the policy node."""

    task: str = bounded("CubeRotation-v0", choices=task_ids())
    weights: str = bounded("", doc="weights file to start with; empty = wait for the learner")
    learner: str = bounded("/learner", doc="namespace of the learner's services")
    seed: int = bounded(0, low=0, high=2**31 - 1, doc="of the policy's noise")
    best_of: int = bounded(
        0, low=0, high=64, doc="chunks among which the critic chooses; 0 = as the weights say"
    )
    execute_steps: int = bounded(0, low=0, high=64, doc="steps of a chunk that are played; 0 = all")
    expiry: float = bounded(0.1, low=0.01, high=10.0, unit="s", doc="a chunk is not started later than this")
    threads: int = bounded(1, low=1, high=16, doc="of PyTorch")
    key_file: str = bounded(
        "", doc="key shared with the learner, a file made by ./softflow key; empty = none"
    )


class PolicyNode(SoftflowNode[PolicyParameters]):
    """Plans at each observation at which the chunk queue is empty."""

    def __init__(self) -> None:
        super().__init__("policy", PolicyParameters)
        torch.set_num_threads(self.params.threads)
        self.task = make_task(self.params.task)
        self.active: LoadedPolicy | None = None
        self._waiting: LoadedPolicy | None = None
        self._download: Download | None = None
        self._asked_at = 0.0
        self._call: Future | None = None
        self._newest = 0
        self._last: ActionChunk | None = None
        self._times: deque[float] = deque(maxlen=2000)
        self.chunk_pub = self.create_publisher(ActionChunk, "action_chunk", stream())
        self.active_pub = self.create_publisher(PolicyManifest, "active_policy", latched(10))
        self._load_start()
        self.create_subscription(Observation, "observation", self._on_observation, stream())
        base = self.params.learner
        self.guard = self.open_guard(self.params.key_file)
        self.create_subscription(PolicyManifest, f"{base}/policy_manifest", self._on_manifest, latched())
        self._fetch = self.create_client(FetchPolicyBlock, f"{base}/fetch_policy_block")

    def _load_start(self) -> None:
        path = self.params.weights
        if not path:
            return
        try:
            self._waiting = load_policy(Path(path).read_bytes(), self.task)
        except (OSError, WeightsError) as error:
            raise ParameterError(f"{self.get_name()}: parameter 'weights' is {path!r}: {error}") from error
        self._swap()

    def poll(self) -> float:
        """Ask again for a block that did not come."""
        if self._download is not None and time.monotonic() - self._asked_at > FETCH_TIMEOUT:
            self.counters["fetch_timeouts"] += 1
            self._ask()
        return 0.1

    def _on_observation(self, message: Observation) -> None:
        if message.steps_left > 0:
            return
        if self._last is not None and self._is_repetition(self._last, message):
            self.chunk_pub.publish(self._last)
            return
        if self.active is None:
            self.counters["observations_without_weights"] += 1
            return
        start = time.perf_counter()
        try:
            self._last = self._plan(self.active, message)
        except ValueError as error:
            self.refuse("observation", error)
            return
        self.chunk_pub.publish(self._last)
        self._times.append(time.perf_counter() - start)
        self.counters["chunks"] += 1
        self._swap()

    @staticmethod
    def _is_repetition(last: ActionChunk, message: Observation) -> bool:
        return bool(last.episode_id == message.episode_id and last.obs_step == message.step)

    def _plan(self, active: LoadedPolicy, message: Observation) -> ActionChunk:
        if message.layout_hash != active.info.layout_hash:
            raise ValueError(
                f"layout_hash is {message.layout_hash!r}, the weights have {active.info.layout_hash!r}"
            )
        state = numpy32(message.state)
        self.task.check_state(state)
        spec = active.policy.spec
        count = self.params.best_of or active.info.best_of
        # The seed of the episode, not its id, so that a run in lock step repeats.
        key = str(message.seed)
        noise = chunk_noise(self.params.seed, key, message.step, count, spec.horizon, spec.action_dim)
        planned = active.policy.plan(state, noise)
        dt = 1.0 / self.task.control_hz
        return to_chunk(planned, message, active, dt, self.params.execute_steps, self.params.expiry)

    def _on_manifest(self, manifest: PolicyManifest) -> None:
        try:
            check_message(self.guard, manifest)
        except AuthenticationError as error:
            self.refuse("forged_manifest", error)
            return
        active = self.active.info.version if self.active else 0
        if manifest.version <= max(active, self._newest):
            return
        try:
            self._download = Download(manifest.version, manifest.size, manifest.sha256)
        except WeightsError as error:
            self.refuse("weights", error)
            return
        self._newest = manifest.version
        self._ask()

    def _ask(self) -> None:
        assert self._download is not None
        self._asked_at = time.monotonic()
        if not self._fetch.service_is_ready():
            return
        d = self._download
        request = FetchPolicyBlock.Request(version=d.version, offset=d.offset, length=d.length)
        self._call = self._fetch.call_async(request)
        self._call.add_done_callback(self._on_block)

    def _on_block(self, call: Future) -> None:
        download, answer = self._download, call.result()
        if download is None or call is not self._call or answer is None:
            return
        try:
            if not answer.ok:
                raise WeightsError(answer.message)
            download.add(bytes(answer.data), answer.crc32, answer.size)
            if download.length:
                self._ask()
                return
            self._waiting = load_policy(download.finish(), self.task)
        except WeightsError as error:
            self.refuse("weights", error)
        self._download = None
        if self.active is None:
            self._swap()

    def _swap(self) -> None:
        """Put waiting weights in force; called only between two chunks."""
        if self._waiting is None:
            return
        self.active, self._waiting = self._waiting, None
        info = self.active.info
        self.active_pub.publish(to_manifest(self.active, PolicyManifest.ACTIVE))
        self.counters["policy_version"] = info.version
        if self._times:
            p50, p99 = np.percentile(self._times, (50, 99))
            self.counters["plan_p50_us"], self.counters["plan_p99_us"] = round(1e6 * p50), round(1e6 * p99)
        self.get_logger().info(
            f"policy version {info.version} ({info.stage}, step {info.gradient_step}) is active"
        )


def main() -> None:
    """Entry point of `policy_node`."""
    sys.exit(run_node(PolicyNode))


if __name__ == "__main__":
    main()
