"""The node graph of a configuration as plain data, read from config/graphs/*.yaml. Pure Python and PyYAML.

`softflow up` runs a `GraphDescription` as processes (supervisor.py); `ros2 launch` runs the same description
(ros_launch.py). Neither knows a node that is not in the description.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from softflow_bringup.cameras import EACH, camera_values, cameras
from softflow_bringup.fleet import ROBOT_NAMESPACE, robots
from softflow_bringup.network import network_environment
from softflow_bringup.parameters import flatten, read_parameter_file
from softflow_bringup.rewards import reward_values
from softflow_bringup.security import secure
from softflow_bringup.values import (
    GraphError,
    check_keys,
    check_kind,
    read_mapping,
    substitute,
    suggest,
    typed_argument,
)

# Descriptions that several graphs share; not a graph itself.
CATALOGUE = "_nodes.yaml"
RECORDER_PACKAGE = "softflow_recorder"
RECORDER = "SOFTFLOW_RECORDER"
"""Environment of the nodes whose messages a recorder must have in full: its full name."""


@dataclass(frozen=True)
class ArgumentDescription:
    """An argument of a graph: `name:=value` on a command line. Its type is the type of its default."""

    name: str
    default: Any
    help: str = ""
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class NodeDescription:
    """One node, as both ways of starting it need it.

    `parameters` is complete: parameter files first, the graph's own values over them. `required`: the graph
    ends in failure when the node has gone for good. `ends_graph`: the graph ends well when the node ends with
    code 0 (of several such nodes: when all have). Nodes are stopped from the lowest `stop_order` to the highest.
    """

    package: str
    executable: str
    name: str
    namespace: str = "/"
    robot: str = ""
    """Which of several robots it belongs to; empty where there is one."""
    parameters: dict[str, Any] = field(default_factory=dict)
    parameter_files: tuple[Path, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    respawn: bool = False
    respawn_delay: float = 1.0
    required: bool = False
    ends_graph: bool = False
    stop_order: int = 0
    nice: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    enclave: str = ""
    """Whose keys the node uses, such as /softflow/hand0/driver; empty = not secured."""

    @property
    def full_name(self) -> str:
        """Namespace and name, as `ros2 node list` shows it."""
        return f"{self.namespace.rstrip('/')}/{self.name}"

    @property
    def label(self) -> str:
        """Its name within the graph: in messages, and of its log file."""
        return f"{self.robot}.{self.name}" if self.robot else self.name

    def unrecorded(self) -> NodeDescription:
        """The same where no recorder runs: the node does not wait for it."""
        return replace(self, environment={k: v for k, v in self.environment.items() if k != RECORDER})


@dataclass(frozen=True)
class GraphDescription:
    """All nodes of a configuration, with the arguments they were made of."""

    name: str
    source: Path
    help: str
    arguments: tuple[ArgumentDescription, ...]
    values: dict[str, Any]
    nodes: tuple[NodeDescription, ...]

    def node(self, name: str) -> NodeDescription:
        """The node of that name, with several robots such as `hand1.policy`. Raises GraphError."""
        for node in self.nodes:
            if node.label == name:
                return node
        known = [node.label for node in self.nodes]
        raise GraphError(f"graph {self.name}: no node {name!r}; {suggest(name, known)}")

    def only(self, labels: Sequence[str]) -> GraphDescription:
        """A part of the graph. Raises GraphError for a node that it has not."""
        wanted = {self.node(label).label for label in labels}
        return replace(self, nodes=tuple(node for node in self.nodes if node.label in wanted))


_GRAPH_KEYS = ("help", "arguments", "nodes")
_ARGUMENT_KEYS = ("default", "help", "choices")
# Key in the YAML -> kind of its value. `use` takes the entry of that name from the catalogue as a base. `when` names
# arguments with the value, or list of values, that each must have; else the node is left out. Of a list of such
# mappings one is enough. `each: camera` makes a node for each camera of the graph.
_NODE_KEYS: dict[str, type] = {
    "use": str,
    "package": str,
    "executable": str,
    "name": str,
    "when": dict,
    "each": str,
    "namespace": str,
    "parameters": dict,
    "parameter_files": list,
    "remappings": dict,
    "respawn": bool,
    "respawn_delay": float,
    "required": bool,
    "ends_graph": bool,
    "stop_order": int,
    "nice": int,
    "environment": dict,
    "enclave": str,
}


def config_directory() -> Path:
    """The directory with `graphs/` and the parameter files: of the source tree, else as installed.

    Raises:
        GraphError: there is neither.
    """
    source_tree = Path(__file__).absolute().parents[3] / "config"
    if (source_tree / "graphs").is_dir():
        return source_tree
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        raise GraphError("no config/graphs here, and no ROS 2 environment to look in") from None
    try:
        return Path(get_package_share_directory("softflow_bringup")) / "config"
    except PackageNotFoundError:
        raise GraphError("no config/graphs here, and softflow_bringup is not installed") from None


def graph_names() -> list[str]:
    """Names that `load_graph` knows. Raises GraphError where there is no configuration."""
    files = (config_directory() / "graphs").glob("*.yaml")
    return sorted(file.stem for file in files if file.name != CATALOGUE)


def load_arguments(name_or_path: str | Path) -> tuple[ArgumentDescription, ...]:
    """The arguments of a graph with their defaults as written. Raises GraphError."""
    path = _find_graph(name_or_path)
    return tuple(_read_arguments(path, _read_graph(path)).values())


def load_graph(name_or_path: str | Path, arguments: Mapping[str, Any] | None = None) -> GraphDescription:
    """Read a graph and fill in its arguments; texts are turned into the type of the argument's default.

    Raises:
        GraphError: naming file, field and value, with what is allowed.
    """
    path = _find_graph(name_or_path)
    content = _read_graph(path)
    declared = _read_arguments(path, content)
    values = _argument_values(path, declared, arguments or {})
    derived = {**camera_values(str(path), values), **reward_values(str(path), values)}
    entries = check_kind(f"{path}: nodes", content.get("nodes"), list)
    nodes: dict[str, NodeDescription] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: nodes[{index}]"
        complete = _complete_entry(path, where, entry)
        if not _holds(f"{where}.when", complete.pop("when", {}), {**derived, **values}):
            continue
        for node in _make_nodes(path, where, complete, values, derived):
            if node.label in nodes:
                raise GraphError(f"{where}.name: {node.label!r} is given twice; names must differ")
            nodes[node.label] = node
    if not nodes:
        raise GraphError(f"{path}: nodes: is empty; at least one node is needed")
    heard = tuple(_heard(list(nodes.values())))
    return GraphDescription(
        path.stem, path, str(content.get("help", "")), tuple(declared.values()), values, heard
    )


def _heard(nodes: Sequence[NodeDescription]) -> Iterator[NodeDescription]:
    """Every node is told who records what it publishes."""
    recorders = {n.namespace: n.full_name for n in nodes if n.package == RECORDER_PACKAGE}
    for node in nodes:
        known = {RECORDER: recorders[node.namespace]} if node.namespace in recorders else {}
        yield replace(node, environment={**known, **node.environment})


def _find_graph(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(text)
    names = graph_names()
    if text not in names:
        raise GraphError(f"unknown graph {text!r}; {suggest(text, names)}; or the path of a YAML file")
    return config_directory() / "graphs" / f"{text}.yaml"


def _read_graph(path: Path) -> dict[str, Any]:
    content = read_mapping(path)
    check_keys(str(path), content, _GRAPH_KEYS)
    return content


def _read_catalogue(path: Path, section: str) -> dict[str, Any]:
    """`arguments` or `nodes` of the catalogue beside the graph, else of the standard one."""
    beside = path.parent / CATALOGUE
    catalogue = beside if beside.is_file() else config_directory() / "graphs" / CATALOGUE
    content = read_mapping(catalogue)
    check_keys(str(catalogue), content, ("arguments", "nodes"))
    entries: dict[str, Any] = check_kind(f"{catalogue}: {section}", content.get(section), dict)
    return entries


def _read_arguments(path: Path, content: Mapping[str, Any]) -> dict[str, ArgumentDescription]:
    given = check_kind(f"{path}: arguments", content.get("arguments") or {}, dict)
    shared: dict[str, Any] | None = None
    declared: dict[str, ArgumentDescription] = {}
    for name, entry in given.items():
        where = f"{path}: arguments.{name}"
        entry = check_kind(where, {} if entry is None else entry, dict)
        if "default" not in entry or "help" not in entry:
            shared = _read_catalogue(path, "arguments") if shared is None else shared
            entry = {**check_kind(f"{CATALOGUE}: arguments.{name}", shared.get(name, {}), dict), **entry}
        check_keys(where, entry, _ARGUMENT_KEYS)
        default = entry.get("default")
        if type(default) not in (str, bool, int, float):
            raise GraphError(f"{where}.default: is {default!r}, must be text, a number or a bool")
        choices = check_kind(f"{where}.choices", entry.get("choices", []), list)
        text = str(entry.get("help", ""))
        declared[name] = ArgumentDescription(name, default, text, tuple(choices))
    return declared


def _argument_values(
    path: Path, declared: Mapping[str, ArgumentDescription], given: Mapping[str, Any]
) -> dict[str, Any]:
    for name, value in given.items():
        if name not in declared:
            what = f"unknown argument {name!r} (value {value!r})"
            raise GraphError(f"{path}: {what}; {suggest(name, declared)}")
    values: dict[str, Any] = {}
    for name, argument in declared.items():
        where = f"{path}: argument {name!r}"
        # A default may name the arguments before it, as `resume` does with `run`.
        value = given[name] if name in given else substitute(where, argument.default, values)
        values[name] = typed_argument(where, value, argument.default, argument.choices)
    return values


def _make_nodes(
    path: Path, where: str, entry: Mapping[str, Any], values: Mapping[str, Any], derived: Mapping[str, Any]
) -> list[NodeDescription]:
    """One node, or one for each robot and each of its cameras; `derived` is what follows from the arguments."""
    own = dict(entry)
    if (each := own.pop("each", EACH)) != EACH:
        raise GraphError(f"{where}.each: is {each!r}; allowed: {EACH}")
    parts: list[dict[str, Any]] = cameras(str(path), values) if "each" in entry else [{}]
    if entry.get("namespace") != ROBOT_NAMESPACE or "namespace" not in values:
        return [_make_node(path, where, own, {**derived, **values, **part}) for part in parts]
    return [
        replace(_make_node(path, where, own, {**derived, **robot.values, **part}), robot=robot.label)
        for robot in robots(str(path), values)
        for part in parts
    ]


def _make_node(
    path: Path, where: str, entry: Mapping[str, Any], values: Mapping[str, Any]
) -> NodeDescription:
    checked: dict[str, Any] = {}
    for key, value in substitute(where, dict(entry), values).items():
        checked[key] = check_kind(f"{where}.{key}", value, _NODE_KEYS[key])
    for key in ("package", "executable", "name"):
        if not checked.get(key):
            raise GraphError(f"{where}.{key}: is missing; package, executable and name are needed")
    namespace = checked.setdefault("namespace", "/")
    if not namespace.startswith("/"):
        raise GraphError(f"{where}.namespace: is {namespace!r}, must begin with /")
    files = _find_parameter_files(path, f"{where}.parameter_files", checked.get("parameter_files", []))
    parameters: dict[str, Any] = {}
    for file in files:
        parameters.update(read_parameter_file(file, checked["name"], namespace))
    given = {k: v for k, v in checked.get("parameters", {}).items() if not _left_open(entry, k, v)}
    parameters.update(flatten(f"{where}.parameters", given))
    remappings = tuple(checked.get("remappings", {}).items())
    environment = network_environment(str(path), values, config_directory())
    environment |= {key: str(value) for key, value in checked.get("environment", {}).items()}
    checked.update(
        parameters=parameters, parameter_files=files, remappings=remappings, environment=environment
    )
    _check_numbers(where, checked)
    checked.update(secure(where, checked, str(values.get("keystore", ""))))
    return NodeDescription(**checked)


def _left_open(entry: Mapping[str, Any], parameter: str, value: Any) -> bool:
    """Whether the argument that a parameter is taken from says nothing: then what its parameter file says holds."""
    return value is None and entry["parameters"][parameter] is not None


def _holds(where: str, conditions: Any, values: Mapping[str, Any]) -> bool:
    """Whether each named argument has the given value, or one of a list of them; of several conditions, any."""
    if isinstance(conditions, list):
        # Each is looked at: a wrong one is named whether it is needed or not.
        return True in [_holds(f"{where}[{i}]", one, values) for i, one in enumerate(conditions)]
    for name, wanted in check_kind(where, conditions, dict).items():
        if name not in values:
            raise GraphError(f"{where}: unknown argument {name!r}; {suggest(name, values)}")
        if values[name] not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def _complete_entry(path: Path, where: str, entry: Any) -> dict[str, Any]:
    """The entry over the catalogue's entry that it uses; `parameters` and `environment` are merged."""
    own: dict[str, Any] = dict(check_kind(where, entry, dict))
    check_keys(where, own, _NODE_KEYS)
    used = own.pop("use", None)
    if used is None:
        return own
    shared = _read_catalogue(path, "nodes")
    if used not in shared:
        raise GraphError(f"{where}.use: {used!r} is not in {CATALOGUE}; {suggest(used, shared)}")
    base: dict[str, Any] = check_kind(f"{CATALOGUE}: nodes.{used}", shared[used], dict)
    check_keys(f"{CATALOGUE}: nodes.{used}", base, [key for key in _NODE_KEYS if key != "use"])
    complete: dict[str, Any] = {"name": used, **base, **own}
    for key in ("parameters", "environment"):
        if isinstance(base.get(key), dict) and isinstance(own.get(key), dict):
            complete[key] = {**base[key], **own[key]}
    return complete


def _find_parameter_files(path: Path, where: str, names: Sequence[Any]) -> tuple[Path, ...]:
    """Files beside the graph first, then of the configuration. Raises GraphError where one is missing."""
    found = []
    for name in names:
        candidates = [path.parent / check_kind(where, name, str), config_directory() / name]
        existing = [candidate for candidate in candidates if candidate.is_file()]
        if not existing:
            looked = " and ".join(map(str, candidates))
            raise GraphError(f"{where}: {name!r}: no such file; looked for {looked}")
        found.append(existing[0])
    return tuple(found)


def _check_numbers(where: str, node: Mapping[str, Any]) -> None:
    if not 0.0 <= node.get("respawn_delay", 1.0) <= 60.0:
        raise GraphError(f"{where}.respawn_delay: is {node['respawn_delay']!r}, must be in [0, 60] s")
    if not -20 <= node.get("nice", 0) <= 19:
        raise GraphError(f"{where}.nice: is {node['nice']!r}, must be in [-20, 19]")


__all__ = [
    "ArgumentDescription",
    "GraphDescription",
    "GraphError",
    "NodeDescription",
    "config_directory",
    "graph_names",
    "load_arguments",
    "load_graph",
]
