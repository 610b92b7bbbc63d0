"""What launch_ros would start is what the description says, for every graph. Needs launch_ros."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from softflow_bringup.graph import NodeDescription, config_directory, graph_names, load_arguments, load_graph

launch = pytest.importorskip("launch")
pytest.importorskip("launch_ros")

from launch_ros.actions import Node  # noqa: E402

from softflow_bringup.network import PROFILE  # noqa: E402
from softflow_bringup.ros_launch import RequiredNodeGoneError, _on_exit, to_launch_description  # noqa: E402


def start_context(arguments: dict[str, str]) -> Any:
    context = launch.LaunchContext(argv=[f"{k}:={v}" for k, v in arguments.items()])
    context._set_asyncio_loop(asyncio.new_event_loop())
    context.launch_configurations.update(arguments)
    return context


def launched_nodes(description: Any, arguments: dict[str, str]) -> list[tuple[Node, Any]]:
    """The Node actions of a description, in order, with their context."""
    context = start_context(arguments)
    nodes: list[tuple[Node, Any]] = []
    pending = list(description.entities)
    while pending:
        entity = pending.pop(0)
        if isinstance(entity, Node):
            nodes.append((entity, context))
        else:
            pending[:0] = entity.visit(context) or []
    return nodes


def text(context: Any, value: Any) -> str:
    from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions

    return perform_substitutions(context, normalize_to_list_of_substitutions(value))


def describe(action: Node, context: Any) -> NodeDescription:
    """The description back from an action, by what launch would put on the command line."""
    action._perform_substitutions(context)
    parameters: dict[str, Any] = {}
    for value, is_file in action._Node__expanded_parameter_arguments or []:
        assert is_file
        for section in yaml.safe_load(Path(value).read_text()).values():
            parameters.update(section["ros__parameters"])
    prefix = text(context, action.process_description.prefix or "")
    additional = action.process_description.additional_env or []
    return NodeDescription(
        package=text(context, action.node_package),
        executable=text(context, action.node_executable),
        name=action.node_name.rpartition("/")[2],
        namespace=action.node_name.rpartition("/")[0] or "/",
        parameters=parameters,
        remappings=tuple(action.expanded_remapping_rules or ()),
        respawn=action._ExecuteLocal__respawn,
        respawn_delay=action._ExecuteLocal__respawn_delay,
        nice=int(prefix.split()[-1]) if prefix else 0,
        environment={text(context, k): text(context, v) for k, v in additional},
    )


def comparable(node: NodeDescription) -> dict[str, Any]:
    left_out = {"parameter_files", "robot", "required", "ends_graph", "stop_order"}
    return {key: value for key, value in vars(node).items() if key not in left_out}


@pytest.mark.parametrize("arguments", [{}, {"seed": "7", "run": "runs/1e3"}], ids=["defaults", "given"])
@pytest.mark.parametrize("name", graph_names())
def test_launch_starts_exactly_the_description(name: str, arguments: dict[str, str]) -> None:
    described = [comparable(node) for node in load_graph(name, arguments).nodes]
    launched = launched_nodes(to_launch_description(name), arguments)
    assert [comparable(describe(action, context)) for action, context in launched] == described


def test_every_kind_of_field_arrives(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        "arguments: {speed: {default: '1'}, n: {default: 2}}\n"
        "nodes: [{package: p, executable: e, name: odd, namespace: /a/b, nice: 3, respawn: true,\n"
        "  respawn_delay: 2.5, environment: {A: '1', B: x}, remappings: {in: /out},\n"
        "  parameters: {s: $(arg speed), n: $(arg n), f: 2.0, b: true, empty: '', odd: 'yes', e: '1e3',\n"
        "               l: ['1', x], li: [1, 2], lf: [1, 2.5], lb: [true, false], deep: {x: 1}}}]\n"
    )
    described = comparable(load_graph(path, {"speed": "max"}).nodes[0])
    [(action, context)] = launched_nodes(to_launch_description(path), {"speed": "max"})
    assert comparable(describe(action, context)) == described


def exit_of(name: str, codes: list[int]) -> list[Any]:
    """What follows in launch when a node of online_rl exits with these codes, one after the other."""
    from launch.events.process import ProcessExited

    context = launch.LaunchContext()
    on_exit = _on_exit(load_graph("online_rl").node(name), {"episode_manager"})
    ignored = {"action": None, "name": name, "cmd": [], "cwd": None, "env": None, "pid": 1}
    return [on_exit(ProcessExited(returncode=code, **ignored), context) for code in codes]


def test_the_end_of_the_episodes_shuts_launch_down() -> None:
    [action] = exit_of("episode_manager", [0])
    assert isinstance(action, launch.actions.EmitEvent)
    assert isinstance(action.event, launch.events.Shutdown)


def test_launch_fails_when_a_required_node_has_gone_or_any_refuses_its_parameters() -> None:
    assert exit_of("policy", [1] * 7) == [None] * 7
    assert exit_of("recorder", [1] * 20) == [None] * 20
    with pytest.raises(RequiredNodeGoneError, match=r"policy has gone \(exit code -9\); it is required"):
        exit_of("policy", [1] * 7 + [-9])
    with pytest.raises(RequiredNodeGoneError, match="recorder refuses its parameters"):
        exit_of("recorder", [2])


@pytest.mark.parametrize("name", graph_names())
def test_there_is_a_launch_file_for_every_graph_with_its_arguments(name: str) -> None:
    path = config_directory().parent / "launch" / f"{name}.launch.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    declared = module.generate_launch_description().get_launch_arguments()
    assert [argument.name for argument in declared] == [argument.name for argument in load_arguments(name)]


@pytest.mark.parametrize("own", ["", "/of/the/user.xml"])
def test_nodes_get_the_profile_of_the_middleware(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROFILE, own)
    if not own:
        monkeypatch.delenv(PROFILE)
    _, context = launched_nodes(to_launch_description("robot"), {})[0]
    assert context.environment[PROFILE] == (own or str(config_directory() / "fastdds_robot.xml"))
