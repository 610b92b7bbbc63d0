"""Graphs: what each consists of, arguments and their types, and every error text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from softflow_bringup.graph import RECORDER, GraphError, graph_names, load_arguments, load_graph
from softflow_policy.policy import DEPLOYED_TEMPERATURE

ROBOT = ["hand_driver", "perception", "episode_manager", "policy", "recorder"]
DOCUMENTED = {
    "online_rl": [*ROBOT, "learner"],
    "robot": ROBOT,
    "inference": ROBOT,
    "record_demos": ["hand_driver", "perception", "episode_manager", "teacher", "recorder"],
    "learner": ["learner"],
}
EXECUTABLES = {
    "hand_driver": ("hand_driver", "driver_node"),
    "perception": ("softflow_perception", "perception_node"),
    "episode_manager": ("softflow_tasks", "episode_node"),
    "policy": ("softflow_policy", "policy_node"),
    "teacher": ("softflow_sim", "teacher_node"),
    "recorder": ("softflow_recorder", "recorder_node"),
    "learner": ("softflow_learner", "learner_node"),
}
TALKER = "nodes: [{package: demo, executable: talk, name: talker"


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_graph_file_is_documented() -> None:
    assert graph_names() == sorted(DOCUMENTED)


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_nodes_names_and_order(name: str) -> None:
    graph = load_graph(name)
    assert [node.name for node in graph.nodes] == DOCUMENTED[name]
    for node in graph.nodes:
        assert (node.package, node.executable) == EXECUTABLES[node.name]
        assert node.namespace == ("/" if node.name == "learner" else "/hand0")
        assert node.respawn
        in_control_loop = node.name in ("hand_driver", "perception", "policy")
        assert node.nice == (10 if node.name == "learner" else -10 if in_control_loop else 0)
        assert node.ends_graph == (node.name == "episode_manager")
    assert graph.values["run"] == f"runs/{name}"


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - {"learner"}))
def test_recorder_is_stopped_last_and_the_driver_after_those_that_use_it(name: str) -> None:
    graph = load_graph(name)
    order = {node.name: node.stop_order for node in graph.nodes}
    assert all(order["recorder"] > other for node, other in order.items() if node != "recorder")
    assert order["hand_driver"] > order["episode_manager"]


def test_who_is_required() -> None:
    required = {node.name for node in load_graph("online_rl").nodes if node.required}
    assert required == {"hand_driver", "episode_manager", "policy"}
    assert "teacher" in {node.name for node in load_graph("record_demos").nodes if node.required}
    assert load_graph("learner").node("learner").required


@pytest.mark.parametrize(
    ("name", "ship", "mode"),
    [("online_rl", True, "train"), ("robot", True, "train"), ("inference", False, "eval"),
     ("record_demos", False, "demo")],
)  # fmt: skip
def test_what_differs_between_the_graphs(name: str, ship: bool, mode: str) -> None:
    graph = load_graph(name)
    assert graph.node("recorder").parameters["ship"] is ship
    assert graph.node("recorder").parameters["directory"] == f"runs/{name}/bags"
    assert graph.node("episode_manager").parameters["mode"] == mode


def test_arguments_reach_the_parameters_with_their_type() -> None:
    arguments = {
        "namespace": "/left",
        "speed": "2",
        "episodes": "3",
        "seed": "7",
        "run": "runs/x",
        "weights": "1",
    }
    graph = load_graph("online_rl", arguments)
    assert graph.node("hand_driver").namespace == "/left"
    assert graph.node("hand_driver").parameters["speed"] == "2"
    assert graph.node("hand_driver").parameters["lock_step"] == "auto"
    assert graph.node("episode_manager").parameters["episodes"] == 3
    assert graph.node("policy").parameters["weights"] == "1"
    assert graph.node("recorder").parameters["directory"] == "runs/x/bags"
    learner = graph.node("learner").parameters
    assert (learner["run"], learner["resume"], learner["seed"]) == ("runs/x", "", 7)


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - {"learner"}))
def test_episodes_wait_for_the_weights_where_a_policy_plays(name: str) -> None:
    graph = load_graph(name)
    plays = "policy" in {node.name for node in graph.nodes}
    assert graph.node("episode_manager").parameters.get("policy", False) == plays
    assert plays == (name != "record_demos")


@pytest.mark.parametrize("name", ["online_rl", "robot", "inference"])
def test_a_human_may_take_the_hand_where_that_is_wanted(name: str) -> None:
    nodes = load_graph(name, {"teleop": "true"}).nodes
    assert {n.name for n in nodes} - {n.name for n in load_graph(name).nodes} == {"teleop"}
    [teleop] = [n for n in nodes if n.name == "teleop"]
    assert (teleop.package, teleop.executable) == ("softflow_teleop", "teleop_node")
    # It reads the observation too: the first episode waits for the policy as before.
    managers = [load_graph(name, {"teleop": t}).node("episode_manager").parameters for t in (False, True)]
    assert [m["observers"] for m in managers] == [3, 4]
    judged = load_graph(name, {"teleop": True, "pictures": "front", "classifier": "c"})
    assert judged.node("episode_manager").parameters["observers"] == 5
    assert teleop.namespace == "/hand0" and teleop.respawn and not teleop.required


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - {"learner"}))
def test_a_classifier_rewards_where_one_is_given(name: str) -> None:
    given = {"classifier": "c.safetensors", "pictures": "front+wrist", "task": "ToolCut-v0"}
    graph, without = load_graph(name, given), load_graph(name)
    names = [n.name for n in graph.nodes]
    assert set(names) - {n.name for n in without.nodes} == {"success", "camera_front", "camera_wrist"}
    success, manager = graph.node("success"), graph.node("episode_manager")
    assert (success.package, success.executable, success.namespace) == (
        "softflow_policy",
        "success_node",
        "/hand0",
    )
    assert success.required and success.respawn and success.environment[RECORDER] == "/hand0/recorder"
    assert success.parameters == {
        "task": "ToolCut-v0",
        "classifier": "c.safetensors",
        "image_topics": "camera/front/image/compressed,camera/wrist/image/compressed",
    }
    assert (manager.parameters["reward"], manager.parameters["observers"]) == ("classifier", 4)
    parameters = without.node("episode_manager").parameters
    assert (parameters["reward"], parameters["observers"]) == ("task", 3)
    with pytest.raises(GraphError, match=r"argument 'pictures' is '', must name the cameras of .*'c.safet"):
        load_graph(name, {"classifier": "c.safetensors"})


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - {"learner"}))
def test_frames_on_request(name: str) -> None:
    [frames] = {
        n.name: n for n in load_graph(name, {"tf": True, "namespace": "/left"}).nodes if n.name == "frames"
    }.values()
    assert (frames.executable, frames.parameters["prefix"], frames.required) == (
        "frames_node",
        "/left",
        False,
    )


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - {"learner"}))
@pytest.mark.parametrize("eyes", ["none", "camera"])
def test_pictures_are_taken_watched_named_and_recorded_on_request(name: str, eyes: str) -> None:
    graph, without = (load_graph(name, {"pictures": on, "eyes": eyes}) for on in ("front", ""))
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) and "camera_front" in names
    assert ("pose" in names) == (eyes == "camera")
    assert set(names) - {n.name for n in without.nodes} == ({"camera_front"} if eyes == "none" else set())
    for node in {"perception", "recorder", "policy"} & set(names):
        assert graph.node(node).parameters["image_topics"] == "camera/front/image/compressed"
        assert not without.node(node).parameters.get("image_topics")
    assert graph.node("recorder").parameters["reliable_images"] is True
    assert without.node("recorder").parameters["reliable_images"] is False
    assert graph.node("camera_front").parameters["recorded"] is True
    assert without.node("recorder").parameters["ship"] == graph.node("recorder").parameters["ship"]


def test_a_policy_that_does_not_learn_is_deployed_and_one_that_does_explores() -> None:
    found = {
        name: load_graph(name).node("policy").parameters["temperature"]
        for name in ("inference", "robot", "online_rl")
    }
    assert found == {"inference": DEPLOYED_TEMPERATURE, "robot": 1.0, "online_rl": 1.0}
    assert load_graph("inference", {"temperature": 0}).node("policy").parameters["temperature"] == 0.0


def test_each_camera_has_a_node_for_each_robot() -> None:
    graph = load_graph("robot", {"pictures": "front+wrist", "robots": 2, "eyes": "camera"})
    cameras = {node.label: node for node in graph.nodes if node.executable == "camera_node"}
    assert set(cameras) == {f"hand{i}.camera_{name}" for i in range(2) for name in ("front", "wrist")}
    for label, node in cameras.items():
        assert node.parameters["name"] == label.rpartition("_")[2] and node.parameters["recorded"] is True
        assert node.namespace == "/" + label.partition(".")[0]
    topics = "camera/front/image/compressed,camera/wrist/image/compressed"
    for name in ("perception", "policy", "recorder"):
        assert graph.node(f"hand1.{name}").parameters["image_topics"] == topics


def test_a_camera_that_only_looks_for_the_object_is_not_recorded() -> None:
    graph = load_graph("robot", {"pictures": "wrist", "eyes": "camera"})
    recorded = {n.name: n.parameters["recorded"] for n in graph.nodes if n.executable == "camera_node"}
    assert recorded == {"camera_front": False, "camera_wrist": True}
    assert graph.node("recorder").parameters["image_topics"] == "camera/wrist/image/compressed"


@pytest.mark.parametrize("pictures", ["front+front", "front,wrist", "+", "a b"])
def test_cameras_that_are_not_names_are_refused(pictures: str) -> None:
    with pytest.raises(GraphError, match=r"argument .pictures.: cameras is .*, must be different names"):
        load_graph("robot", {"pictures": pictures})


def test_nodes_can_be_made_for_cameras_only(tmp_path: Path) -> None:
    text = "arguments: {pictures: {default: left+right, help: x}}\n"
    entry = "nodes: [{package: d, executable: t, each: %s, name: eye_$(arg camera)}]"
    names = {node.name for node in load_graph(write(tmp_path, text + entry % "camera")).nodes}
    assert names == {"eye_left", "eye_right"}
    with pytest.raises(GraphError, match=r"nodes\[0\].each: is 'robot'; allowed: camera"):
        load_graph(write(tmp_path, text + entry % "robot"))


def test_of_several_conditions_one_is_enough_and_each_is_checked(tmp_path: Path) -> None:
    text = "arguments: {a: {default: 1, help: x}, b: {default: 1, help: x}}\n"
    one = write(
        tmp_path, text + TALKER + ", when: [{a: 2}, {b: [2, 3]}]}, {package: d, executable: t, name: o}]"
    )
    for values, there in (({}, False), ({"a": 2}, True), ({"b": 3}, True), ({"a": 2, "b": 2}, True)):
        assert ("talker" in {n.name for n in load_graph(one, values).nodes}) == there, values
    wrong = write(tmp_path, text + TALKER + ", when: [{a: 1}, {c: 2}]}]")
    with pytest.raises(GraphError, match=r"when\[1\]: unknown argument 'c'"):
        load_graph(wrong)


def test_demonstrations_of_a_human_need_no_teacher() -> None:
    graph = load_graph("record_demos", {"source": "teleop"})
    assert [n.name for n in graph.nodes] == [
        "hand_driver", "perception", "episode_manager", "teleop", "recorder",
    ]  # fmt: skip
    assert graph.node("teleop").required
    assert graph.node("episode_manager").parameters["observers"] == 3


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_the_task_is_chosen_in_one_place(name: str) -> None:
    nodes = load_graph(name, {"task": "ToolCut-v0"}).nodes
    told = {node.name: node.parameters.get("task") for node in nodes if node.name != "recorder"}
    assert set(told.values()) == {"ToolCut-v0"}, told


def test_python_values_and_paths_are_arguments_too() -> None:
    graph = load_graph("robot", {"run": Path("/data/a"), "speed": 4, "seed": 5})
    assert graph.values == {**graph.values, "run": "/data/a", "speed": "4", "seed": 5}


def test_a_description_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_graph("robot").nodes[0].name = "other"  # type: ignore[misc]


def test_parameter_files_come_first_and_the_graph_over_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        "/**: {ros__parameters: {rate: 1, deep: {a: 2, b: x}, kept: ''}}\n"
        "other: {ros__parameters: {rate: 9}}\n"
        "/ns/talker: {ros__parameters: {deep: {a: 3}}}\n",
        "talk.yaml",
    )
    text = TALKER + ", namespace: /ns, parameter_files: [talk.yaml], parameters: {rate: 5, list: [1, 2.5]}}]"
    node = load_graph(write(tmp_path, text)).nodes[0]
    assert node.parameters == {"rate": 5, "deep.a": 3, "deep.b": "x", "kept": "", "list": [1.0, 2.5]}
    assert node.parameter_files == (tmp_path / "talk.yaml",)


def test_a_graph_of_ones_own_may_use_the_catalogue(tmp_path: Path) -> None:
    text = "arguments: {namespace: {default: /mine}, task: , run: , key_file: }\n"
    text += "nodes: [{use: recorder, required: true}]"
    node = load_graph(write(tmp_path, text)).nodes[0]
    assert (node.name, node.namespace, node.required) == ("recorder", "/mine", True)


def test_substitution_inside_text_and_environment(tmp_path: Path) -> None:
    text = (
        "arguments: {n: {default: 3}, again: {default: false}}\n"
        + TALKER
        + ", environment: {N: $(arg n)}, remappings: {a: /b$(arg n)}, respawn: $(arg again),"
        + " parameters: {whole: $(arg n), part: x$(arg n)y}}]"
    )
    node = load_graph(write(tmp_path, text), {"again": "true"}).nodes[0]
    assert node.environment == {"N": "3"}
    assert node.remappings == (("a", "/b3"),)
    assert node.respawn is True
    assert node.parameters == {"whole": 3, "part": "x3y"}


def test_all_arguments_can_be_listed_without_values() -> None:
    names = [argument.name for argument in load_arguments("learner")]
    own = ["task", "run", "learner_run", "demos", "settings", "resume", "seed"]
    assert names == [*own, "key_file", "keystore", "peers", "discovery_server", "transport"]
    assert all(argument.help for argument in load_arguments("online_rl"))


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("online_r", {}, ["unknown graph 'online_r'", "did you mean 'online_rl'", "record_demos"]),
        ("online_rl", {"sped": "1"}, ["online_rl.yaml", "'sped'", "'1'", "did you mean 'speed'"]),
        ("online_rl", {"episodes": "many"}, ["argument 'episodes'", "'many'", "a whole number"]),
        ("online_rl", {"episodes": "1.5"}, ["argument 'episodes'", "1.5", "a whole number"]),
        ("online_rl", {"seed": "[1"}, ["argument 'seed'", "'[1'", "a whole number"]),
        ("online_rl", {"seed": True}, ["argument 'seed'", "True", "a whole number"]),
        ("online_rl", {"mode": "trian"}, ["argument 'mode'", "'trian'", "train, eval, demo"]),
        ("online_rl", {"namespace": "hand"}, ["namespace", "'hand'", "must begin with /"]),
        ("record_demos", {"weights": "w"}, ["'weights'", "allowed: "]),
        ("nowhere/g.yaml", {}, ["nowhere/g.yaml", "no such file"]),
    ],
)
def test_errors_in_what_was_asked_for(name: str, arguments: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(GraphError) as error:
        load_graph(name, arguments)
    assert all(part in str(error.value) for part in parts), str(error.value)


BAD_GRAPHS = {
    "nodes: []": ["nodes", "empty"],
    "nods: []": ["unknown key 'nods'", "did you mean 'nodes'"],
    "help: x": ["nodes", "None", "a list"],
    "[1]": ["must be a mapping", "list"],
    "nodes: [": ["not valid YAML"],
    "nodes: []\nnodes: []": ["'nodes' is given twice"],
    TALKER + ", respwan: true}]": ["nodes[0]", "'respwan'", "True", "did you mean 'respawn'"],
    TALKER + ", respawn: 1}]": ["nodes[0].respawn", "1", "true or false"],
    TALKER + ", respawn_delay: 100}]": ["respawn_delay", "100.0", "[0, 60]"],
    TALKER + ", nice: -25}]": ["nice", "-25", "[-20, 19]"],
    TALKER + ", parameter_files: [talk.yaml]}]": ["parameter_files", "'talk.yaml'", "no such file"],
    TALKER + ", parameters: {a: null}}]": ["parameter 'a'", "None"],
    TALKER + ", parameters: {a: []}}]": ["parameter 'a'", "[]", "one or more"],
    TALKER + ", parameters: {a: [1, x]}}]": ["parameter 'a'", "[1, 'x']", "one plain type"],
    TALKER + ", parameters: {a: $(arg b)}}]": [
        "parameters.a",
        "unknown argument 'b'",
        "allowed: image_topics, observers, reliable_images, reward",
    ],
    TALKER + ", parameters: {a: $(env b)}}]": ["parameters.a", "$(env b)", "$(arg name)"],
    TALKER + "}, {package: d, executable: e, name: talker}]": ["nodes[1].name", "'talker'", "twice"],
    "nodes: [{package: demo, name: talker}]": ["nodes[0].executable", "missing"],
    "nodes: [{use: recordr}]": ["nodes[0].use", "'recordr'", "did you mean 'recorder'"],
    "arguments: {a: {default: [1]}}\n" + TALKER + "}]": ["arguments.a.default", "[1]"],
    "arguments: {a: {defalt: 1}}\n" + TALKER + "}]": ["arguments.a", "'defalt'", "did you mean 'default'"],
    "arguments: {on: {default: 1}}\n" + TALKER + "}]": ["arguments", "key True", "quote it"],
    "arguments: {a: 1}\n" + TALKER + "}]": ["arguments.a", "1", "a mapping"],
}


@pytest.mark.parametrize("text", sorted(BAD_GRAPHS))
def test_errors_in_a_graph_file(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(GraphError) as error:
        load_graph(path)
    for part in (str(path), *BAD_GRAPHS[text]):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("/**: {rate: 1}", ["section '/**'", "ros__parameters", "{'rate': 1}"]),
        ("/**: {ros__parameters: 3}", ["ros__parameters", "3", "a mapping"]),
        ("/**: {ros__parameters: {a: 2020-01-01}}", ["parameter 'a'", "date"]),
        ("talker: {ros__parameters: {a: {b: [null]}}}", ["parameter 'a.b'", "[None]"]),
    ],
)
def test_errors_in_a_parameter_file(text: str, parts: list[str], tmp_path: Path) -> None:
    write(tmp_path, text, "talk.yaml")
    with pytest.raises(GraphError) as error:
        load_graph(write(tmp_path, TALKER + ", parameter_files: [talk.yaml]}]"))
    assert all(part in str(error.value) for part in ["talk.yaml", *parts]), str(error.value)


def test_every_node_beside_a_recorder_knows_who_records_it() -> None:
    nodes = load_graph("online_rl", {"robots": "2"}).nodes
    told = {node.label: node.environment.get(RECORDER, "") for node in nodes}
    robots = {node.namespace for node in nodes if node.package == "softflow_recorder"}
    assert len(robots) == 2
    for node in nodes:
        assert told[node.label] == (f"{node.namespace}/recorder" if node.namespace in robots else "")
