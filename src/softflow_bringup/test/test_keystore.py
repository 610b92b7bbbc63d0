"""Keys in a graph, the enclaves of the policies, and the two commands that make keys."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from xml.etree import ElementTree

import pytest

from softflow_bringup import key, keystore
from softflow_bringup.graph import RECORDER, GraphError, graph_names, load_graph
from softflow_bringup.supervisor import ros_arguments
from softflow_node.authentication import Key

with_ros2 = pytest.mark.skipif(
    shutil.which("ros2") is None, reason="`ros2 security` makes keystores; it is not installed"
)


def some_keystore(path: Path, enclaves: list[str]) -> Path:
    """As far as a graph looks into one."""
    for enclave in enclaves:
        (path / "enclaves" / enclave[1:]).mkdir(parents=True)
        (path / "enclaves" / enclave[1:] / "permissions.p7s").touch()
    return path


@pytest.mark.parametrize("robot", ["/hand0", "/lab/left"])
@pytest.mark.parametrize("name", graph_names())
def test_every_node_of_a_graph_has_an_enclave_with_a_policy(tmp_path: Path, name: str, robot: str) -> None:
    policies = keystore.policies_for([robot])
    directory = some_keystore(tmp_path / "keys", list(policies))
    given = {"keystore": str(directory)}
    if name != "learner":
        given |= {"namespace": robot, "pictures": "front", "classifier": "c", "tf": "true"}
    for node in load_graph(name, given).nodes:
        profile = next(ElementTree.fromstring(policies[node.enclave]).iter("profile"))
        assert (profile.attrib["ns"], profile.attrib["node"]) == (node.namespace, node.name)
        arguments = ros_arguments(node, tmp_path)
        assert arguments[arguments.index("--enclave") + 1] == node.enclave
        assert node.environment["ROS_SECURITY_ENABLE"] == "true"
        assert node.environment["ROS_SECURITY_STRATEGY"] == "Enforce"
        assert node.environment["ROS_SECURITY_KEYSTORE"] == str(directory)


def test_each_camera_has_keys_of_its_own_and_who_sees_one_sees_all(tmp_path: Path) -> None:
    policies = keystore.policies_for(["/hand0"], ["front", "wrist"])
    directory = some_keystore(tmp_path / "keys", list(policies))
    given = {"keystore": str(directory), "pictures": "front+wrist", "eyes": "camera"}
    nodes = {node.name: node for node in load_graph("online_rl", given).nodes}
    for name, other in (("front", "wrist"), ("wrist", "front")):
        text = policies[nodes[f"camera_{name}"].enclave]
        assert f"camera/{name}/image/compressed" in text and f"camera/{other}" not in text
        for node in ("perception", "policy", "recorder", "pose"):
            assert f"<topic>camera/{name}/image/compressed</topic>" in policies[nodes[node].enclave], node
    for node in nodes.values():
        profile = next(ElementTree.fromstring(policies[node.enclave]).iter("profile"))
        assert profile.attrib["node"] == node.name
    with pytest.raises(keystore.KeystoreError, match="camera is 'a/b', must be a name"):
        keystore.policies_for(["/hand0"], ["a/b"])


def test_without_a_keystore_nothing_is_secured(tmp_path: Path) -> None:
    for node in load_graph("online_rl").nodes:
        assert not node.enclave and node.environment.keys() <= {RECORDER}
        assert "--enclave" not in ros_arguments(node, tmp_path)


def test_a_keystore_without_keys_for_a_node_is_refused_by_name(tmp_path: Path) -> None:
    directory = some_keystore(tmp_path / "keys", ["/softflow/hand0/driver"])
    with pytest.raises(
        GraphError, match=r"no keys for /softflow/hand0/perception in keystore .*softflow keystore"
    ):
        load_graph("inference", {"keystore": str(directory)})
    with pytest.raises(GraphError, match="no keys for /softflow/hand1/driver"):
        load_graph("inference", {"keystore": str(directory), "namespace": "/hand1"})


def test_a_node_without_an_enclave_is_refused_where_there_is_a_keystore(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "arguments: {keystore: {default: ''}}\nnodes: [{package: demo, executable: talk, name: talker}]\n"
    )
    assert load_graph(path).nodes[0].enclave == ""
    with pytest.raises(GraphError, match=r"nodes\[0\].enclave: is missing"):
        load_graph(path, {"keystore": str(tmp_path)})


@pytest.mark.parametrize("name", sorted(set(graph_names()) - {"learner"}))
def test_the_key_file_reaches_all_who_have_the_parameter(name: str) -> None:
    nodes = load_graph(name, {"key_file": "/etc/key"}).nodes
    found = {node.name: node.parameters.get("key_file") for node in nodes}
    wanted = {"recorder", "policy", "learner"} & set(found)
    assert {node for node, value in found.items() if value == "/etc/key"} == wanted


def rights(name: str) -> set[tuple[str, str]]:
    """(right, name as written) of the enclave of that name."""
    [text] = [p.read_text() for p in keystore.policy_files() if p.stem == name]
    return {
        (right, entry.text or "")
        for group in next(ElementTree.fromstring(text).iter("profile"))
        for right, value in group.attrib.items()
        for entry in group
        if value == "ALLOW"
    }


def test_who_may_command_the_hand_and_who_may_push_weights() -> None:
    names = [path.stem for path in keystore.policy_files()]

    def who(right: str, topic: str) -> set[str]:
        return {n for n in names if {(right, topic), (right, topic.rpartition("/")[2])} & rights(n)}

    assert who("publish", "/hand0/action_chunk") == {"policy", "teacher", "teleop"}
    assert who("request", "/hand0/reset_estop") == {"operator"}
    assert {n for n in names if ("publish", "teleop/joint_targets") in rights(n)} == {"keyboard"}
    assert who("request", "/hand0/estop") == {"operator", "teleop", "keyboard"}
    assert who("publish", "/hand0/joint_trajectory") == {"operator"}
    for name in ("recover_hand", "hand_driver/change_state"):
        assert {n for n in names if ("request", name) in rights(n)} == {"operator"}
    for name in ("home", "calibrate", "tension"):
        assert who("call", f"/hand0/{name}") == {"operator"}
    # The recorder holds the hand when the disk is full.
    assert who("request", "/hand0/set_mode") == {"operator", "recorder"}
    assert who("call", "/hand0/reset_scene") == {"episode_manager"}
    assert {n for n in names if any("policy_manifest" in t for r, t in rights(n) if r == "publish")} == {
        "learner"
    }
    assert {n for n in names if ("reply", "learner/push_experience") in rights(n)} == {"learner"}
    # No wildcards: each right is a name.
    assert not [t for n in names for _, t in rights(n) if set(t) & set("*?[")]


def test_several_robots_share_the_learner_and_nothing_else() -> None:
    one, both = keystore.policies_for(["/hand0"]), keystore.policies_for(["/hand0", "/hand1"])
    assert set(both) - set(one) == {p.replace("hand0", "hand1") for p in one if "hand0" in p}
    assert not [p for p, text in both.items() if "/hand0" in text and "/hand1" in text]
    with pytest.raises(keystore.KeystoreError, match="robot is 'hand1', must be a namespace"):
        keystore.policies_for(["hand1"])


def test_the_key_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    assert key.main([str(path)]) == 0
    made = Key.load(path)
    assert made.id in capsys.readouterr().out
    assert key.main([str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Key.load(path) == made
    assert key.main([str(path), "--show"]) == 0
    assert made.id in (shown := capsys.readouterr().out) and made.secret.hex() not in shown
    path.chmod(0o644)
    assert key.main([str(path), "--show"]) == 2
    assert "mode is 0644" in capsys.readouterr().err


def test_without_the_tool_the_command_names_its_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert keystore.main([str(tmp_path / "keys")]) == 2
    assert "ros-jazzy-sros2" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


def test_a_step_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(keystore.KeystoreError, match=r"false security create_keystore .*: failed"):
        keystore.make_keystore(tmp_path / "keys", ["/hand0"], keystore.ros2_security("false", 0))


@with_ros2
def test_the_tool_makes_keys_and_permissions_of_the_policies(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    for robots in (["--robot", "/hand0"], ["--robot", "/hand0", "--robot", "/hand1"]):
        kept = {p: p.read_bytes() for p in directory.rglob("key.pem")}
        assert keystore.main([str(directory), "--domain", "7", *robots]) == 0
        # What was there is completed, not replaced.
        assert all(path.read_bytes() == data for path, data in kept.items())
    for enclave, text in keystore.policies_for(["/hand0", "/hand1"]).items():
        keys = directory / "enclaves" / enclave[1:]
        permissions = ElementTree.parse(keys / "permissions.xml")
        assert {e.text for e in permissions.iter("id")} == {"7"}
        assert (keys / "permissions.p7s").is_file()
        topics = {e.text for e in permissions.iter("topic")}
        names = {(e.text or "").rpartition("/")[2] for e in ElementTree.fromstring(text).iter("topic")}
        assert names <= {(t or "").rpartition("/")[2] for t in topics}
        assert "*" not in topics and "rt/*" not in topics
    for path in directory.rglob("*"):
        assert not stat.S_IMODE(os.stat(path).st_mode) & 0o077, path
    load_graph("online_rl", {"keystore": str(directory), "namespace": "/hand1"})
