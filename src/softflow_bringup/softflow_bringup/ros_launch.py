"""The same graph description as launch_ros actions. The only module here that needs launch and launch_ros.

What launch does otherwise than `softflow up`: the delay before a new start does not grow, a node
that ended well is started again like one that died (unless its end is the graph's), all nodes are stopped at
the same time, and shared memory of killed nodes stays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from softflow_bringup.graph import ArgumentDescription, NodeDescription, load_arguments, load_graph
from softflow_bringup.respawn import Fate, RespawnPolicy


class RequiredNodeGoneError(RuntimeError):
    """A node without which the graph cannot go on has gone. Raised in launch, its exit code is 1 then."""


def to_launch_description(graph_name: str | Path) -> LaunchDescription:
    """All arguments of a graph, and its nodes as they follow from the arguments' values.

    Raises:
        GraphError: the graph cannot be read; while launching: an argument or a parameter file is wrong.
    """
    arguments = load_arguments(graph_name)

    def make_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        given = _given_values(arguments, context)
        return [to_node(node) for node in load_graph(graph_name, given).nodes]

    declared = [_declare(argument) for argument in arguments]
    return LaunchDescription([*declared, OpaqueFunction(function=make_nodes)])


def to_node(node: NodeDescription) -> Node:
    """One node as a launch action."""
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[{name: _parameter(value) for name, value in node.parameters.items()}],
        remappings=list(node.remappings),
        respawn=node.respawn,
        respawn_delay=node.respawn_delay,
        additional_env=dict(node.environment),
        prefix=f"nice -n {node.nice}" if node.nice else None,
        output="screen",
        sigterm_timeout="10",
        sigkill_timeout="5",
        on_exit=_on_exit(node),
    )


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


def _parameter(value: Any) -> Any:
    """Texts are marked as such: launch would read "1" as a number."""
    if isinstance(value, str):
        return ParameterValue(value, value_type=str)
    if isinstance(value, list) and isinstance(value[0], str):
        return ParameterValue(value, value_type=list[str])
    return value


def _on_exit(node: NodeDescription) -> Callable[[ProcessExited, LaunchContext], Any]:
    # Launch does not say how long a process lived; failures are counted without a healthy time in between.
    policy = RespawnPolicy(node.respawn, node.respawn_delay)

    def on_exit(event: ProcessExited, context: LaunchContext) -> Any:
        if context.is_shutdown:
            return None
        fate, _ = policy.on_exit(event.returncode, alive=0.0)
        if fate is Fate.FINISHED and node.ends_graph:
            return EmitEvent(event=Shutdown(reason=f"{node.name} is done"))
        if fate is not Fate.RESPAWN and node.required:
            raise RequiredNodeGoneError(
                f"{node.name} has gone (exit code {event.returncode}); it is required"
            )
        return None

    return on_exit
