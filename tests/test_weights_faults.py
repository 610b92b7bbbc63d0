"""Weights that must not act, learners that die or disagree: real nodes, real Fast DDS, real SIGKILL.

In every case the version in force plays on, the robot says what it refused and why, and a good version still gets in.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import domain_coordinator
import pytest
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from softflow_msgs.msg import ActionChunk, Observation, PolicyManifest, PolicyReceipt
from softflow_msgs.srv import FetchPolicyBlock

from softflow_bringup.policy import main as policy_command
from softflow_bringup.shm import SegmentLedger
from softflow_learner.session import Session
from softflow_learner.shelf import Shelf
from softflow_node.node import latched, reliable
from softflow_policy.download import BLOCK
from softflow_policy.policy import ChunkPolicy
from softflow_policy.spec import PolicySpec
from softflow_policy.versions import State
from softflow_policy.weights import WeightsInfo, encode_weights, sha256
from softflow_tasks import make_task

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TIMEOUT = 40.0
TASK = make_task("CubeRotation-v0")
SPEC = PolicySpec(state_dim=TASK.layout.size, action_dim=TASK.action_dim, width=16, critic_width=16)
CANDIDATE, ACTIVE, ROLLED_BACK = (int(state) for state in State)


def weights(
    version: int, spec: PolicySpec = SPEC, layout: str = TASK.layout.hash, spoil: float = 0.0
) -> bytes:
    torch.manual_seed(0)
    policy = ChunkPolicy(spec)
    policy.normalizer.mean[0] = spoil
    return encode_weights(policy, WeightsInfo(version=version, layout_hash=layout))


def manifest(data: bytes, version: int, state: int = ACTIVE, **values: Any) -> PolicyManifest:
    base = {"sha256": sha256(data), "size": len(data), "spec_hash": SPEC.spec_hash()}
    base |= {"layout_hash": TASK.layout.hash, "state": state, "stage": "online"}
    return PolicyManifest(version=version, **{**base, **values})


class Probe:
    """Camera and hand of a robot, and what can be heard of its policy."""

    def __init__(self, context: Context) -> None:
        self.node = Node("probe", namespace="/hand0", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.steps = itertools.count()
        self.chunks: list[ActionChunk] = []
        self.receipts: list[PolicyReceipt] = []
        self.counters: dict[str, dict[str, str]] = {}
        self.observations = self.node.create_publisher(Observation, "observation", reliable(10))
        for kind, topic, hear, quality in (
            (ActionChunk, "action_chunk", self.chunks.append, reliable(100)),
            (PolicyReceipt, "/learner/policy_receipt", self.receipts.append, latched(100)),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(10)),
        ):
            self.node.create_subscription(kind, topic, hear, quality)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.counters[status.name] = {v.key: v.value for v in status.values}

    def until(self, condition: Callable[[], Any], what: str, act: Callable[[], None] = lambda: None) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, f"never: {what}; {self.receipts[-3:]}"
            act()
            self.executor.spin_once(timeout_sec=0.1)

    def observe(self, episode: str = "probe") -> None:
        """One more observation that asks for a chunk."""
        self.observations.publish(
            Observation(
                episode_id=episode,
                step=next(self.steps),
                task=TASK.id,
                layout_hash=TASK.layout.hash,
                state=array("f", [0.0] * TASK.layout.size),
                applied_action=array("f", [0.0] * TASK.action_dim),
            )
        )

    def plays(self, version: int, episode: str = "probe") -> None:
        """Observe until a new chunk comes of this version."""
        self.chunks.clear()
        self.until(
            lambda: any(c.policy_version == version for c in self.chunks),
            f"a chunk of version {version}",
            lambda: self.observe(episode),
        )

    def next_version(self, episode: str) -> int:
        """The version behind the chunk that answers one observation."""
        self.chunks.clear()
        self.observe(episode)
        self.until(lambda: self.chunks, "a chunk")
        return int(self.chunks[0].policy_version)

    def counter(self, node: str, name: str) -> int:
        return int(self.counters.get(node, {}).get(name, "0"))


class Learner:
    """Announces and serves what no learner of ours would."""

    def __init__(self, node: Node) -> None:
        self.files: dict[int, bytes] = {}
        self.spoil: Callable[[FetchPolicyBlock.Response], None] = lambda _: None
        self._pub = node.create_publisher(PolicyManifest, "/learner/policy_manifest", latched(1))
        node.create_service(FetchPolicyBlock, "/learner/fetch_policy_block", self._on_fetch)

    def _on_fetch(
        self, request: FetchPolicyBlock.Request, response: FetchPolicyBlock.Response
    ) -> FetchPolicyBlock.Response:
        if request.version not in self.files:
            response.message = f"version {request.version} is not on offer"
            return response
        data = self.files[request.version]
        block = data[request.offset : request.offset + request.length]
        response.ok, response.size, response.crc32 = True, len(data), zlib.crc32(block)
        response.data = array("B", block)
        self.spoil(response)
        return response

    def announce(self, *manifests: PolicyManifest) -> None:
        for one in manifests:
            self._pub.publish(one)

    def offer(self, version: int, state: int = ACTIVE) -> None:
        self.files[version] = weights(version)
        self.announce(manifest(self.files[version], version, state))


LEDGER = SegmentLedger()


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and the shared memory that it leaves."""
    LEDGER.observe(process.pid)
    process.kill()
    process.wait()
    LEDGER.clean(ports=True)


@contextmanager
def node(module: str, name: str, log: Path, **parameters: object) -> Iterator[subprocess.Popen[bytes]]:
    """One of our nodes as a process; killed at the end."""
    command = [sys.executable, "-m", module, "--ros-args", "-r", f"__node:={name}"]
    if module.startswith("softflow_policy"):
        command += ["-r", "__ns:=/hand0"]
    for key, value in parameters.items():
        command += ["-p", f"{key}:={value}"]
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield process
    finally:
        kill(process)


@contextmanager
def robot(path: Path, **parameters: object) -> Iterator[Probe]:
    """A policy node in a domain of its own, and a probe that is heard."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("ROS_DOMAIN_ID", str(stack.enter_context(domain_coordinator.domain_id())))
        patch.setenv("OMP_NUM_THREADS", "1")
        context = Context()
        rclpy.init(context=context)
        stack.callback(rclpy.shutdown, context=context)
        stack.enter_context(node("softflow_policy.node", "policy", path / "policy.log", **parameters))
        probe = Probe(context)
        stack.callback(probe.node.destroy_node)
        yield probe


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Probe, Learner]]:
    """A robot with version 10 in force."""
    path = tmp_path_factory.mktemp("faults")
    start = path / "start.safetensors"
    start.write_bytes(weights(10))
    with robot(path, weights=start) as probe:
        probe.plays(10)
        yield probe, Learner(probe.node)


def wider() -> PolicySpec:
    return replace(SPEC, width=20)


def shorten(response: FetchPolicyBlock.Response) -> None:
    response.data = response.data[:-1]
    response.crc32 = zlib.crc32(response.data)


def flip(response: FetchPolicyBlock.Response) -> None:
    response.data[-1] ^= 1


def flip_with_crc(response: FetchPolicyBlock.Response) -> None:
    flip(response)
    response.crc32 = zlib.crc32(response.data)


GOOD, OLD = weights(11), weights(7)
CUT = GOOD[:-100]
NAN, FOREIGN = weights(11, spoil=float("nan")), weights(11, layout="f" * 64)
FAULTS = {
    "short block": (GOOD, manifest(GOOD, 11), shorten, ["block at 0 of version 11", "must have"]),
    "flipped block": (GOOD, manifest(GOOD, 11), flip, ["crc32", "version 11"]),
    "flipped file": (GOOD, manifest(GOOD, 11), flip_with_crc, ["sha256 is", sha256(GOOD)]),
    "truncated": (CUT, manifest(CUT, 11), None, ["not a valid safetensors file"]),
    "not finite": (NAN, manifest(NAN, 11), None, ["normalizer.mean", "1 numbers that are not finite"]),
    "another size": (GOOD, manifest(GOOD, 11, size=7), None, [f"now {len(GOOD)} bytes", "said 7"]),
    "wrong spec": (
        GOOD,
        manifest(GOOD, 11, spec_hash=wider().spec_hash()),
        None,
        ["spec_hash", SPEC.spec_hash(), wider().spec_hash()],
    ),
    "wrong layout": (FOREIGN, manifest(FOREIGN, 11), None, ["layout_hash", "f" * 64, TASK.layout.hash]),
    "layout announced": (GOOD, manifest(GOOD, 11, layout_hash="other"), None, ["version 11", "'other'"]),
    "old file": (OLD, manifest(OLD, 11), None, ["version of the file is 7", "said 11"]),
    "stale": (OLD, manifest(OLD, 7), None, ["version 7 is stale", "greater than 10"]),
    "stale candidate": (OLD, manifest(OLD, 7, CANDIDATE), None, ["candidate version 7 is stale", "10"]),
    "another file": (OLD, manifest(OLD, 10), None, ["sha256 of version 10", sha256(OLD), "two learners"]),
    "not served": (OLD, manifest(OLD, 99), None, ["version 99 is not on offer"]),
    "no hash": (OLD, manifest(OLD, 11, sha256="none"), None, ["sha256 of version 11 is 'none'"]),
    "no state": (OLD, manifest(OLD, 11, state=9), None, ["state of version 11 is 9", "0 (candidate)"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_weights_are_refused_by_name_and_the_version_in_force_plays_on(
    pair: tuple[Probe, Learner], name: str
) -> None:
    probe, learner = pair
    data, said, spoil, words = FAULTS[name]
    learner.files = {} if name == "not served" else {said.version: data}
    learner.spoil = spoil or (lambda _: None)
    probe.receipts.clear()
    learner.announce(said)

    def refusals() -> list[PolicyReceipt]:
        return [r for r in probe.receipts if r.outcome == PolicyReceipt.REFUSED]

    probe.until(refusals, "a refusal", probe.observe)
    (receipt,) = refusals()
    assert (receipt.robot, receipt.version, receipt.sha256) == ("/hand0", said.version, said.sha256)
    assert all(word in receipt.detail for word in words), receipt.detail
    assert probe.next_version("after") == 10
    learner.spoil = lambda _: None


def test_rollback_canary_and_replay_then_a_respawn_without_a_learner(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes(weights(10))
    with ExitStack() as stack:
        probe = stack.enter_context(robot(tmp_path, weights=start, cache=tmp_path / "cache"))
        learner = Learner(probe.node)
        learner.offer(11)
        probe.plays(11)
        (active,) = [r for r in probe.receipts if r.version == 11 and r.outcome == PolicyReceipt.ACTIVE]
        assert 0.0 < active.swap_time < 1.0

        learner.offer(12, CANDIDATE)
        probe.until(lambda: any(r.outcome == PolicyReceipt.CANARY for r in probe.receipts), "a canary")
        played = [[probe.next_version(f"episode {i}") for _ in range(2)] for i in range(4)]
        assert played == [[12, 12], [11, 11], [12, 12], [11, 11]]

        replayed = [manifest(learner.files[12], 12, ROLLED_BACK), manifest(learner.files[11], 11)]
        learner.announce(replayed[0])
        probe.until(lambda: probe.next_version("withdrawn") == 11, "the candidate gone")

        # A rollback from 11 to 10, which then is as good as any.
        learner.files[10] = start.read_bytes()
        rollback = [manifest(learner.files[11], 11, ROLLED_BACK), manifest(learner.files[10], 10)]
        learner.announce(*rollback)
        probe.plays(10)
        learner.offer(13)
        probe.plays(13)
        probe.receipts.clear()
        learner.announce(*replayed, *rollback)
        probe.until(
            lambda: {r.version for r in probe.receipts if r.outcome == PolicyReceipt.REFUSED} == {10, 11},
            "the replayed rollback refused",
        )
        assert probe.next_version("replayed") == 13
    with robot(tmp_path, weights=start, cache=tmp_path / "cache") as probe:
        probe.plays(13)


def serve(directory: Path) -> None:
    """A learner whose blocks take their time; it says when it has been asked for one."""
    rclpy.init()
    slow, shelf = Node("slow_learner"), Shelf(directory)
    learner = Learner(slow)
    learner.files = {v: shelf.offer(v).data for v in shelf.files()}

    def wait(response: FetchPolicyBlock.Response) -> None:
        print("asked", flush=True)
        time.sleep(1.0)

    learner.spoil = wait
    learner.announce(manifest(learner.files[2], 2, spec_hash=shelf.entries[2].spec_hash))
    rclpy.spin(slow)


def versions_in_force(probe: Probe) -> list[int]:
    return [r.version for r in probe.receipts if r.outcome == PolicyReceipt.ACTIVE]


def test_learners_die_in_the_middle_of_a_transfer_and_follow_one_another(tmp_path: Path) -> None:
    run, other = tmp_path / "a", tmp_path / "b"
    session = Session(run, TASK, seed=0)
    session.stage = "offline"
    session.publish()
    session.finish_stage()
    session.close()
    assert len(session.shelf.offer(2).data) > 2 * BLOCK
    start = run / "weights" / "000001.safetensors"
    with robot(tmp_path, weights=start) as probe, ExitStack() as learners:
        probe.plays(1)
        slow = subprocess.Popen([sys.executable, __file__, str(run / "weights")], stdout=subprocess.PIPE)
        learners.callback(slow.kill)
        assert slow.stdout is not None and slow.stdout.readline() and slow.stdout.readline()
        kill(slow)
        slow.communicate()
        probe.plays(1)

        # Another process with the same shelf goes on where the first one was.
        first = learners.enter_context(learner_node(tmp_path, "first", run))
        probe.plays(2)
        kill(first)
        probe.plays(2)

        # One elsewhere, with a checkpoint and no shelf: its first number is beyond what the robot has.
        second = learners.enter_context(learner_node(tmp_path, "second", other, resume=run))
        probe.plays(3)
        assert Shelf(other / "weights").active == 3

        # The first one comes back beside it: who came last leads, the other sees that and ends.
        learners.enter_context(learner_node(tmp_path, "third", run))
        probe.plays(4)
        probe.until(lambda: second.poll() is not None, "the second one making way")
        assert second.returncode == 0
        assert "version 4 of another learner" in (tmp_path / "second.log").read_text()
        assert versions_in_force(probe) == sorted(versions_in_force(probe))
        assert policy_command(["rollback", "--reason", "worse"]) == 0
        probe.plays(2)
        assert Shelf(run / "weights").rolled_back == [4]
        assert policy_command(["promote", "4", "--reason", "it was the hand"]) == 0
        probe.plays(5)


def learner_node(path: Path, name: str, run: Path, **parameters: object) -> Any:
    return node("softflow_learner.node", name, path / f"{name}.log", run=run, **parameters)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    serve(Path(sys.argv[1]))
