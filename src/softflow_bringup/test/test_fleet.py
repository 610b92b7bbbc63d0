"""Several robots in one graph, and how hosts find each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from softflow_bringup.fleet import robots
from softflow_bringup.graph import RECORDER, GraphError, load_graph

ROBOT = ["hand_driver", "perception", "episode_manager", "policy", "recorder"]


def test_every_robot_has_its_nodes_and_the_learner_is_there_once() -> None:
    graph = load_graph("online_rl", {"robots": "3", "run": "runs/x", "seed": 7})
    names = [f"hand{index}.{name}" for name in ROBOT for index in range(3)]
    assert sorted(node.label for node in graph.nodes) == sorted([*names, "learner"])
    assert len({node.full_name for node in graph.nodes}) == 16
    for index in range(3):
        manager = graph.node(f"hand{index}.episode_manager")
        assert (manager.namespace, manager.name) == (f"/hand{index}", "episode_manager")
        assert manager.parameters["seed"] == 7 + index
        assert manager.parameters["progress"] == f"runs/x/hand{index}/episodes.json"
        assert graph.node(f"hand{index}.recorder").parameters["directory"] == f"runs/x/hand{index}/bags"
    learner = graph.node("learner")
    assert learner.parameters["run"] == "runs/x" and learner.parameters["seed"] == 7


def test_robots_share_no_topic() -> None:
    graph = load_graph("robot", {"robots": 2})
    for node in graph.nodes:
        relative = [v for k, v in node.parameters.items() if k.endswith("_topic")]
        assert not any(topic.startswith("/") for topic in relative)
        assert not node.remappings


def test_one_robot_is_as_before() -> None:
    assert load_graph("robot", {"robots": 1}).nodes == load_graph("robot").nodes
    assert [node.label for node in load_graph("robot").nodes] == ROBOT


def test_namespaces_are_counted_on_from_the_given_one() -> None:
    values = {"robots": 3, "namespace": "/lab/left9", "run": "r", "seed": 0}
    assert [robot.label for robot in robots("g", values)] == ["lab.left9", "lab.left10", "lab.left11"]
    assert [robot.values["namespace"] for robot in robots("g", values)][2] == "/lab/left11"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"robots": 0}, ["'robots'", "0", "[1, 64]"]),
        ({"robots": 65}, ["'robots'", "65", "[1, 64]"]),
        ({"robots": 2, "namespace": "/left"}, ["'namespace'", "'/left'", "number", "robots:=2"]),
        ({"peers": "10.0.0.2,ro bot"}, ["'peers'", "'ro bot'", "host name"]),
        ({"discovery_server": "10.0.0.2"}, ["'discovery_server'", "'10.0.0.2'", "HOST:PORT"]),
        ({"discovery_server": "a:70000"}, ["'discovery_server'", "'a:70000'", "HOST:PORT"]),
        ({"discovery_server": "a:1", "peers": "b"}, ["'discovery_server'", "'a:1'", "peers:=b"]),
    ],
)
def test_errors_name_argument_value_and_bound(arguments: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(GraphError) as error:
        load_graph("robot", arguments)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_where_the_others_are_reaches_every_node_and_the_shell_holds_otherwise() -> None:
    assert all(node.environment.keys() <= {RECORDER} for node in load_graph("robot").nodes)
    for node in load_graph("robot", {"peers": "10.0.0.2, learner.lab"}).nodes:
        assert node.environment["ROS_STATIC_PEERS"] == "10.0.0.2;learner.lab"
    [node] = load_graph("learner", {"discovery_server": "10.0.0.1:11811"}).nodes
    assert node.environment == {"ROS_DISCOVERY_SERVER": "10.0.0.1:11811"}


def test_a_transport_is_a_profile_that_exists() -> None:
    [node] = load_graph("learner", {"transport": "udp"}).nodes
    profile = Path(node.environment["FASTRTPS_DEFAULT_PROFILES_FILE"])
    assert profile.is_file() and "SHM" not in profile.read_text()
