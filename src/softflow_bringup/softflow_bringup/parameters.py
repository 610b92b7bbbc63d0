"""ROS 2 parameter files: read for one node, written for one node. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from softflow_bringup.values import GraphError, check_kind, read_mapping

Parameters = dict[str, Any]


class _QuotingDumper(yaml.SafeDumper):
    """Writes every text value quoted: ROS reads a plain `1e3`, which PyYAML holds for text, as a number."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_QuotingDumper.add_representer(str, _quoted)


def read_parameter_file(path: Path, name: str, namespace: str) -> Parameters:
    """The parameters which a ROS parameter file gives the node, nested ones joined with a point.

    Sections are taken in the order of the file; `/**`, `/**/name`, `name` and the full name apply.

    Raises:
        GraphError: missing or malformed file, no `ros__parameters` in a section, or a value ROS cannot hold.
    """
    full = f"{namespace.rstrip('/')}/{name}"
    merged: Parameters = {}
    for section, body in read_mapping(path).items():
        where = f"{path}: section {section!r}"
        if not isinstance(body, dict) or set(body) != {"ros__parameters"}:
            raise GraphError(f"{where}: must hold ros__parameters and nothing else, holds {body!r}")
        values = check_kind(f"{where}.ros__parameters", body["ros__parameters"] or {}, dict)
        if section in ("/**", f"/**/{name}", name, full):
            merged.update(flatten(where, values))
    return merged


def flatten(where: str, values: Mapping[str, Any], prefix: str = "") -> Parameters:
    """Nested mappings as `outer.inner` keys. Raises GraphError at a value that ROS cannot hold."""
    flat: Parameters = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            inner = check_kind(f"{where}: parameter {name!r}", value, dict)
            flat.update(flatten(where, inner, f"{name}."))
        else:
            flat[name] = check_value(f"{where}: parameter {name!r}", value)
    return flat


def check_value(where: str, value: Any) -> Any:
    """`value` as ROS can hold it: a bool, number, text, or a list of one of these; 1 beside 2.5 becomes 1.0.

    Raises:
        GraphError: null, an empty list (it has no type in ROS), a mixed list, or any other type.
    """
    if isinstance(value, (bool, int, float, str)):
        return value
    if not isinstance(value, (list, tuple)):
        kind = type(value).__name__
        raise GraphError(f"{where}: is {value!r} ({kind}); ROS holds bools, numbers, texts and lists of them")
    kinds = {type(item) for item in value}
    if kinds == {int, float}:
        return [float(item) for item in value]
    if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
        raise GraphError(f"{where}: is {value!r}; a list must hold one or more values of one plain type")
    return list(value)


def write_parameter_file(path: Path, parameters: Mapping[str, Any]) -> None:
    """Write parameters for the node which is started with this file. Raises OSError."""
    content = {"/**": {"ros__parameters": dict(parameters)}}
    path.write_text(yaml.dump(content, Dumper=_QuotingDumper, sort_keys=False), encoding="utf-8")
