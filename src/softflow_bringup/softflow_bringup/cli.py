"""The commands of softflow. `up` is here; the others belong to modules that are imported when used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from softflow_bringup.graph import graph_names, load_arguments, load_graph
from softflow_bringup.values import GraphError

# Command -> (module with `main(argv) -> int`, help).
COMMANDS = {
    "demo": ("softflow_bringup.demo", "learn on a simulated hand, with everything started for you"),
    "record": ("softflow_bringup.record", "record demonstrations into bags"),
    "teleop": ("softflow_bringup.teleop", "take the hand by the keys of this terminal"),
    "train": (
        "softflow_bringup.train",
        "train a policy: imitation, warmup, offline from bags, online beside the robot; teacher, distill",
    ),
    "eval": ("softflow_bringup.evaluate", "measure a policy"),
    "bench": ("softflow_bringup.bench", "measure: latency of the running system, methods, learner"),
    "policy": ("softflow_bringup.policy", "list the versions of a learner; promote one, or roll back"),
    "key": ("softflow_bringup.key", "make the key that robots and learner share"),
    "keystore": ("softflow_bringup.keystore", "make the DDS-Security keys of all nodes"),
    "bags": ("softflow_recorder.cli", "list, show, check, repair, label, export and import bags"),
    "classifier": (
        "softflow_learner.success.cli",
        "see success in pictures: train from labelled bags, judge and reward others",
    ),
    "camera": (
        "softflow_perception.calibration.cli",
        "calibrate a camera: board to print, intrinsics, place",
    ),
}
EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, 2 after an error in what was asked for."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        return _dispatch(arguments[0], arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        return up(options.config, options.arguments, options.log_directory, options.show, options.only)
    except (GraphError, OSError) as error:
        print(f"softflow: {error}", file=sys.stderr)
        return EXIT_USAGE


def up(
    config: str, pairs: Sequence[str], log_directory: Path | None, show: bool, only: Sequence[str] = ()
) -> int:
    """Start a graph, or `only` these nodes of it, and keep it running; returns its exit code.

    Raises:
        GraphError: the graph or an argument is wrong.
        OSError: the nodes cannot be started, or the log directory not be made.
    """
    from softflow_bringup.supervisor import Supervisor

    graph = load_graph(config, parse_assignments(pairs))
    if only:
        graph = graph.only(only)
    if show:
        for node in graph.nodes:
            print(f"{node.full_name}: {node.package} {node.executable}")
            for name, value in node.parameters.items():
                print(f"    {name}: {value!r}")
        return 0
    return Supervisor(graph, log_directory=log_directory).run()


def parse_assignments(pairs: Sequence[str]) -> dict[str, str]:
    """`name:=value` texts as a mapping. Raises GraphError at any other form, or a name given twice."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition(":=")
        if not separator or not name:
            raise GraphError(f"argument {pair!r}: must have the form name:=value")
        if name in values:
            raise GraphError(f"argument {pair!r}: {name!r} is given twice")
        values[name] = value
    return values


def _dispatch(command: str, argv: list[str]) -> int:
    module_name, _ = COMMANDS[command]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        print(f"softflow {command}: the Python module {error.name!r} is missing", file=sys.stderr)
        return EXIT_USAGE
    return int(module.main(argv) or 0)


def _parser() -> argparse.ArgumentParser:
    about = "Fine-tune a dexterous-hand policy on the robot."
    parser = argparse.ArgumentParser(prog="softflow", description=about)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    start = commands.add_parser(
        "up",
        help="start a node graph, as ros2 launch does",
        epilog=_graph_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    start.add_argument("config", metavar="CONFIG", help="a graph, see below, or the path of a YAML file")
    start.add_argument("arguments", metavar="name:=value", nargs="*", help="arguments of the graph")
    start.add_argument("--log-directory", type=Path, metavar="DIR", help="also write a log file per node")
    start.add_argument(
        "--only", action="append", default=[], metavar="NODE", help="start this node only; repeatable"
    )
    start.add_argument("--show", action="store_true", help="print nodes and parameters, start nothing")
    for name, (_, text) in COMMANDS.items():
        # Listed for --help only; `main` hands these to their module with all that follows.
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _graph_help() -> str:
    """Every graph with its arguments and defaults; empty where there is no configuration."""
    lines = []
    try:
        for name in graph_names():
            lines += [f"{name}:"]
            for argument in load_arguments(name):
                lines.append(f"  {argument.name}:={argument.default}".ljust(32) + argument.help)
    except GraphError:
        return ""
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
