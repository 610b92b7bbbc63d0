"""The same graph description as launch_ros actions. The only module here that needs launch and launch_ros.

What launch does otherwise than `softflow up`: the delay before a new start does not grow, a node
that ended well is started again like one that died (unless its end is the graph's), all nodes are stopped at
the same time, and shared memory of killed nodes stays.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, SetEnvironmentVariable
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch_ros.actions import Node

from softflow_bringup.graph import (
    ArgumentDescription,
    NodeDescription,
    config_directory,
    load_arguments,
    load_graph,
)
from softflow_bringup.network import PROFILE
from softflow_bringup.parameters import write_parameter_file
from softflow_bringup.respawn import Fate, RespawnPolicy
from softflow_bringup.supervisor import RUN_ID


class RequiredNodeGoneError(RuntimeError):
    """A node without which the graph cannot go on has gone. Raised in launch, its exit code is 1 then."""


def to_launch_description(graph_name: str | Path) -> LaunchDescription:
    """All arguments of a graph, and its nodes as they follow from the arguments' values.

    Raises:
        GraphError: the graph cannot be read; while launching: an argument or a parameter file is wrong.
    """
    arguments = load_arguments(graph_name)

    def make_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        graph = load_graph(graph_name, _given_values(arguments, context))
        directory = TemporaryDirectory(prefix="softflow_")
        awaited = {node.label for node in graph.nodes if node.ends_graph}
        variables = {RUN_ID: uuid.uuid4().hex}
        if PROFILE not in context.environment:  # as `./softflow` has it; a user's own stays
            variables[PROFILE] = str(config_directory() / "fastdds_robot.xml")
        actions = (SetEnvironmentVariable(name, value) for name, value in variables.items())
        return [*actions, *(to_node(node, directory, awaited) for node in graph.nodes)]

    declared = [_declare(argument) for argument in arguments]
    return LaunchDescription([*declared, OpaqueFunction(function=make_nodes)])


def to_node(node: NodeDescription, directory: TemporaryDirectory[str], awaited: set[str]) -> Node:
    """One node as a launch action; its parameters go into a file in `directory`. Raises OSError.

    The graph ends with the last of the nodes in `awaited`.

    The file is written here and not by launch_ros, which would let ROS read a text like "1e3" as a number.
    """
    parameter_file = Path(directory.name) / f"{node.label}.yaml"
    write_parameter_file(parameter_file, node.parameters)
    action = Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        exec_name=node.label,
        namespace=node.namespace,
        parameters=[str(parameter_file)],
        remappings=list(node.remappings),
        ros_arguments=["--enclave", node.enclave] if node.enclave else None,
        respawn=node.respawn,
        respawn_delay=node.respawn_delay,
        additional_env=dict(node.environment),
        prefix=f"nice -n {node.nice}" if node.nice else None,
        output="screen",
        sigterm_timeout="10",
        sigkill_timeout="5",
        on_exit=_on_exit(node, awaited),
    )
    # Removed with the last action that names it; a node that starts again reads its file again.
    action.parameter_directory = directory
    return action


def _declare(argument: ArgumentDescription) -> DeclareLaunchArgument:
    # The loader checks the choices and fills in `$(arg run)`; launch only carries the text.
    text = _to_text(argument.default)
    return DeclareLaunchArgument(argument.name, default_value=text, description=argument.help or None)


def _given_values(arguments: tuple[ArgumentDescription, ...], context: LaunchContext) -> dict[str, str]:
    """The arguments that differ from their default's text; the loader knows the defaults itself."""
    given = {}
    for argument in arguments:
        text = context.launch_configurations[argument.name]
        if text != _to_text(argument.default):
            given[argument.name] = text
    return given


def _to_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _on_exit(node: NodeDescription, awaited: set[str]) -> Callable[[ProcessExited, LaunchContext], Any]:
    # Launch does not say how long a process lived; failures are counted without a healthy time in between.
    policy = RespawnPolicy(node.respawn, node.respawn_delay)

    def on_exit(event: ProcessExited, context: LaunchContext) -> Any:
        if context.is_shutdown:
            return None
        fate, _ = policy.on_exit(event.returncode, alive=0.0)
        if fate is Fate.FINISHED and node.ends_graph:
            awaited.discard(node.label)
            return None if awaited else EmitEvent(event=Shutdown(reason=f"{node.label} is done"))
        if fate is Fate.REFUSED:
            raise RequiredNodeGoneError(f"{node.label} refuses its parameters, see above")
        if fate is not Fate.RESPAWN and node.required:
            code = event.returncode
            raise RequiredNodeGoneError(f"{node.label} has gone (exit code {code}); it is required")
        return None

    return on_exit
