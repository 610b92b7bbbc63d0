"""DDS-Security: who may do what, that nothing runs unsecured unseen, and that a stranger reaches nothing."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import domain_coordinator
import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from ros_permissions import allowed, used
from softflow_msgs.msg import HandState
from softflow_msgs.srv import SetMode

from softflow_bringup.graph import load_graph
from softflow_bringup.keystore import main as make_keystore
from softflow_bringup.supervisor import Supervisor
from softflow_node.node import stream
from softflow_node.security import secured_environment

pytestmark = pytest.mark.ros
TIMEOUT = 30.0
RECORDER = "/softflow/hand0/recorder"


def run_python(code: str, enclave: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A participant of its own, with the keys of an enclave."""
    command = [sys.executable, "-c", code, "--ros-args", "--enclave", enclave]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def run_recorder(tmp_path: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "softflow_recorder.node", "--ros-args", "--enclave", RECORDER]
    command += ["-p", f"directory:={tmp_path}/bags"]
    with domain_coordinator.domain_id() as domain:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), **environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_a_node_that_cannot_be_secured_does_not_run(tmp_path: Path) -> None:
    """Without DDS-Security in the middleware, and with it too: the enclave is empty."""
    (tmp_path / "enclaves" / RECORDER[1:]).mkdir(parents=True)
    done = run_recorder(tmp_path, secured_environment(tmp_path))
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "ROS_SECURITY_STRATEGY is 'Enforce' and the node cannot be secured, so it does not run" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ROS_SECURITY_STRATEGY": "Permissive"}, "ROS_SECURITY_STRATEGY is 'Permissive', must be 'Enforce'"),
        ({"ROS_SECURITY_ENABLE": "True"}, "ROS_SECURITY_ENABLE is 'True', must be 'true' or 'false'"),
        ({"ROS_SECURITY_KEYSTORE": "/nonexistent"}, "ROS_SECURITY_KEYSTORE is '/nonexistent'"),
    ],
)
def test_a_node_that_would_run_unsecured_does_not_run(
    tmp_path: Path, changes: dict[str, str], named: str
) -> None:
    (tmp_path / "enclaves").mkdir()
    done = run_recorder(tmp_path, {**secured_environment(tmp_path), **changes})
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert named in line


@pytest.mark.slow
def test_the_policy_of_an_enclave_allows_what_its_node_does_and_no_more(tmp_path: Path) -> None:
    names = ["hand_driver", "perception", "episode_manager", "teacher", "teleop"]
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        context = Context()
        rclpy.init(context=context)
        observer = Node("observer", context=context)
        graph = load_graph("record_demos", {"run": str(tmp_path)})
        human = load_graph("record_demos", {"run": str(tmp_path), "source": "teleop"}).node("teleop")
        graph = dataclasses.replace(graph, nodes=(*graph.nodes, human))
        with Supervisor(graph, log=lambda *_: None):
            for name in (f"/hand0/{name}" for name in names):
                end = time.monotonic() + TIMEOUT
                while differs := allowed(name) ^ seen(observer, name):
                    assert time.monotonic() < end, f"{name}: {differs}"
                    time.sleep(0.2)
        observer.destroy_node()
        rclpy.shutdown(context=context)


def seen(observer: Node, name: str) -> set[tuple[str, str]]:
    """Of a node that may not be there yet."""
    try:
        return used(observer, name)
    except rclpy.node.NodeNameNonExistentError:
        return set()


@functools.cache
def why_not_secured() -> str:
    """Empty where keystores can be made and the middleware takes part in a secured domain with one."""
    if shutil.which("ros2") is None:
        return "`ros2 security` is not installed, so there is no keystore"
    code = "import rclpy; rclpy.init(); rclpy.create_node('probe')"
    with tempfile.TemporaryDirectory() as folder, domain_coordinator.domain_id() as domain:
        keystore = Path(folder) / "keystore"
        if make_keystore([str(keystore), "--domain", str(domain)]) != 0:
            return "`ros2 security` does not make a keystore"
        environment = {**secured_environment(keystore), "ROS_DOMAIN_ID": str(domain)}
        done = run_python(code, "/softflow/hand0/operator", environment)
    return "" if done.returncode == 0 else f"no secured participant: {done.stderr.strip().splitlines()[-1]}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a secured domain in which a driver runs."""
    if why_not_secured():
        pytest.skip(why_not_secured())
    folder = tmp_path_factory.mktemp("secured")
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        keystore = folder / "keystore"
        assert make_keystore([str(keystore), "--domain", str(domain)]) == 0
        (folder / "driver.yaml").write_text(
            "arguments: {namespace: , task: , speed: , lock_step: , keystore: }\nnodes: [{use: hand_driver}]\n"
        )
        graph = load_graph(folder / "driver.yaml", {"keystore": str(keystore)})
        with Supervisor(graph, log_directory=folder / "log"):
            yield {**secured_environment(keystore), "ROS_DOMAIN_ID": str(domain)}


SET_MODE = """
import rclpy
from softflow_msgs.srv import SetMode
rclpy.init()
node = rclpy.create_node("operator", namespace="/hand0")
client = node.create_client(SetMode, "set_mode")
assert client.wait_for_service(30.0)
future = client.call_async(SetMode.Request(mode=1, reason="test"))
rclpy.spin_until_future_complete(node, future, timeout_sec=30.0)
print("ANSWER", future.result() is not None)
"""
PUBLISH = """
import rclpy, softflow_msgs.msg
rclpy.init()
node = rclpy.create_node("recorder", namespace="/hand0")
node.create_publisher(softflow_msgs.msg.{kind}, "{topic}", 1)
print("MADE")
"""


@pytest.mark.slow
def test_the_operator_may_command_the_hand_and_a_stranger_does_not_even_see_it(
    secured: dict[str, str],
) -> None:
    assert "ANSWER True" in run_python(SET_MODE, "/softflow/hand0/operator", secured).stdout
    context = Context()
    rclpy.init(context=context)
    stranger = Node("stranger", namespace="/hand0", context=context)
    heard: list[HandState] = []
    stranger.create_subscription(HandState, "hand_state", heard.append, stream())
    client = stranger.create_client(SetMode, "set_mode")
    # The operator above needed less to be discovered and answered.
    assert not client.wait_for_service(10.0)
    assert not heard and not stranger.count_publishers("/hand0/hand_state")
    stranger.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("enclave", "kind", "topic", "may"),
    [
        ("/softflow/hand0/policy", "ActionChunk", "/hand0/action_chunk", True),
        (RECORDER, "ActionChunk", "/hand0/action_chunk", False),
        ("/softflow/learner", "PolicyManifest", "/learner/policy_manifest", True),
        (RECORDER, "PolicyManifest", "/learner/policy_manifest", False),
        ("/softflow/learner", "ActionChunk", "/hand0/action_chunk", False),
    ],
)
def test_only_its_enclave_may_command_the_hand_or_push_weights(
    secured: dict[str, str], enclave: str, kind: str, topic: str, may: bool
) -> None:
    done = run_python(PUBLISH.format(kind=kind, topic=topic), enclave, secured)
    assert ("MADE" in done.stdout) is may, done.stderr
