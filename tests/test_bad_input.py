"""Bad messages to real nodes: a clear error that names field, value and bound; what was in force stays."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import domain_coordinator
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy
from softflow_msgs.msg import ActionChunk, ChunkResult, HandState, Observation

from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_node.messages import to_stamp
from softflow_node.node import reliable
from softflow_policy.policy import ChunkPolicy
from softflow_policy.spec import PolicySpec
from softflow_policy.weights import WeightsInfo, encode_weights
from softflow_tasks import make_task

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TIMEOUT = 30.0
TASK = make_task("CubeRotation-v0")


class Probe:
    """A node that publishes what no node of ours would, and sees what comes of it."""

    def __init__(self, context: Context) -> None:
        self.node = Node("probe", namespace="/hand0", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.chunks = self.node.create_publisher(ActionChunk, "action_chunk", reliable(10))
        self.observations = self.node.create_publisher(Observation, "observation", reliable(10))
        self.targets = self.node.create_publisher(JointState, "teleop/joint_targets", reliable(10))
        self.joy = self.node.create_publisher(Joy, "joy", reliable(10))
        self.chunk_ids = itertools.count(1_000_000)
        self.states: list[HandState] = []
        self.results: list[ChunkResult] = []
        self.planned: list[ActionChunk] = []
        self.diagnostics: dict[str, dict[str, str]] = {}
        for kind, topic, into in (
            (HandState, "hand_state", self.states),
            (ChunkResult, "chunk_result", self.results),
            (ActionChunk, "action_chunk", self.planned),
        ):
            self.node.create_subscription(kind, topic, into.append, reliable(100))
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(10))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {v.key: v.value for v in status.values}

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, f"never: {what}"
            self.executor.spin_once(timeout_sec=0.1)

    def refusal(self, make: Callable[[int], ActionChunk]) -> ChunkResult:
        """Publish until the driver refuses; a reset in between makes a chunk one of the episode before."""
        found: list[ChunkResult] = []
        first = next(self.chunk_ids)

        def attempt() -> bool:
            self.chunks.publish(make(next(self.chunk_ids)))
            self.executor.spin_once(timeout_sec=0.2)
            found.extend(r for r in self.results if r.chunk_id >= first and r.reason == ChunkResult.REFUSED)
            return bool(found)

        self.until(attempt, "a refusal")
        return found[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of the task's sizes."""
    policy = ChunkPolicy(
        PolicySpec(state_dim=TASK.layout.size, action_dim=TASK.action_dim, width=16, critic_width=16)
    )
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    path.write_bytes(encode_weights(policy, WeightsInfo(version=1, layout_hash=TASK.layout.hash)))
    return path


@pytest.fixture(scope="module")
def probe(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """The inference graph at real-time speed, and a probe beside it."""
    run = tmp_path_factory.mktemp("bad_input")
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        graph = load_graph(
            "inference", {"run": str(run), "weights": str(weights), "speed": "1", "teleop": "true"}
        )
        context = Context()
        rclpy.init(context=context)
        with Supervisor(graph, log_directory=run / "log"):
            probe = Probe(context)
            probe.until(lambda: probe.states and probe.planned, "a running episode")
            yield probe
        probe.node.destroy_node()
        rclpy.shutdown(context=context)


def chunk(probe: Probe, chunk_id: int, **fields: Any) -> ActionChunk:
    """A chunk that the driver would take, with some fields changed."""
    state = probe.states[-1]
    values: dict[str, Any] = {
        "episode_id": state.episode_id,
        "chunk_id": chunk_id,
        "source": "teleop",
        "dt": 1.0 / TASK.control_hz,
        "horizon": 2,
        "action_dim": 8,
        "actions": array("f", [0.0] * 16),
        "execute_steps": 2,
        "log_prob": math.nan,
        "q_value": math.nan,
        "expiry": to_stamp(2**40),
    }
    return ActionChunk(**{**values, **fields})


NAN_ACTIONS = array("f", [0.0] * 7 + [math.nan] + [0.0] * 8)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"actions": NAN_ACTIONS}, ["actions[7]", "nan", "finite"]),
        ({"policy_version": 99, "policy_sha256": "ab"}, ["policy_version 99", "announced: 1"]),
        ({"actions": array("f", [0.0] * 15)}, ["15 values", "2*8"]),
        ({"action_dim": 4, "horizon": 4}, ["(4, 4)", "8"]),
        ({"execute_steps": 3}, ["execute_steps is 3", "[1, 2]"]),
        ({"dt": 0.1}, ["dt is 0.1", "0.05"]),
        ({"expiry": to_stamp(0)}, ["expiry 0.000 s"]),
        ({"episode_id": "another"}, ["episode_id 'another'"]),
    ],
)
def test_bad_chunk_is_refused_by_name_and_the_hand_goes_on(
    probe: Probe, fields: dict[str, Any], words: list[str]
) -> None:
    detail = probe.refusal(lambda chunk_id: chunk(probe, chunk_id, **fields)).detail
    assert all(word in detail for word in words), detail
    seen = len(probe.states)
    probe.until(lambda: len(probe.states) > seen + 5, "the hand going on")
    assert probe.states[-1].episode_id


def observation(probe: Probe, state: list[float], obs_id: int) -> Observation:
    return Observation(
        episode_id=f"probe{obs_id}",
        step=0,
        obs_id=obs_id,
        steps_left=0,
        task=TASK.id,
        layout_hash=TASK.layout.hash,
        state=array("f", state),
        applied_action=array("f", [0.0] * 8),
    )


@pytest.mark.parametrize("state", [[0.0] * 33, [math.nan] + [0.0] * 33])
def test_bad_observation_is_refused_and_counted_by_the_policy(probe: Probe, state: list[float]) -> None:
    def refused() -> int:
        return int(probe.diagnostics.get("/hand0/policy", {}).get("refused_observation", "0"))

    before = refused()
    probe.observations.publish(observation(probe, state, 10**6))
    probe.until(lambda: refused() > before, "a count of refused observations")
    planned = len(probe.planned)
    probe.until(lambda: len(probe.planned) > planned, "the policy planning on")
    assert not any(c.episode_id == f"probe{10**6}" for c in probe.planned)


JOINT = TASK.joint_names[0]


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("joint_targets", JointState(name=["nose"], position=[0.1])),
        ("joint_targets", JointState(name=[JOINT], position=[math.nan])),
        ("joint_targets", JointState(name=[JOINT, JOINT], position=[0.0, 0.1])),
        ("joint_targets", JointState(name=[JOINT], position=[])),
        ("joy", Joy(axes=[0.0], buttons=[1])),
        ("joy", Joy(axes=[math.nan] * 8, buttons=[0, 0, 0, 0, 0, 1])),
    ],
)
def test_a_bad_device_takes_no_hand(probe: Probe, topic: str, message: Any) -> None:
    def told() -> dict[str, str]:
        return probe.diagnostics.get("/hand0/teleop", {})

    def refused() -> bool:
        (probe.joy if topic == "joy" else probe.targets).publish(message)
        return int(told().get(f"refused_{topic}", "0")) > before

    before = int(told().get(f"refused_{topic}", "0"))
    probe.until(refused, "a count of refused messages")
    assert told().get("takeovers", "0") == "0"
    planned = len(probe.planned)
    probe.until(lambda: len(probe.planned) > planned, "the policy planning on")
    assert {c.source for c in probe.planned[planned:]} == {"policy"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "best_off:=4"], ["'best_off'", "unknown", "'best_of'"]),
        (["-p", "best_of:=65"], ["'best_of'", "65", "[0, 64]"]),
        (["-p", "weights:=/nonexistent"], ["'weights'", "/nonexistent"]),
    ],
)
def test_wrong_parameter_ends_a_node_with_one_clear_line(arguments: list[str], words: list[str]) -> None:
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        command = [sys.executable, "-m", "softflow_policy.node", "--ros-args", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and all(word in lines[0] for word in words), done.stderr


def test_damaged_weights_end_a_node_with_one_clear_line(weights: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:-100])
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        command = [sys.executable, "-m", "softflow_policy.node", "--ros-args", "-p", f"weights:={damaged}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "weights" in done.stderr and "Traceback" not in done.stderr
