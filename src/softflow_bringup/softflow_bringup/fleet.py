"""Several robots in one graph: which nodes are a robot's, and what differs between robots. Pure Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softflow_bringup.values import GraphError

ROBOT_NAMESPACE = "$(arg namespace)"
"""A node in this namespace is a robot's: there is one for each robot."""
MOST = 64


@dataclass(frozen=True)
class Robot:
    """One robot of a graph."""

    label: str
    """Such as hand1; empty where there is one robot only."""
    values: dict[str, Any]
    """The graph's arguments as they hold for this robot."""


def robots(where: str, values: Mapping[str, Any]) -> list[Robot]:
    """The robots of a graph with these arguments.

    One robot has the arguments as they are. Of several, each has a namespace of its own, counted on from the given
    one, a directory `<run>/<label>`, and a seed counted on from the given one.

    Raises:
        GraphError: `robots` is out of bounds, or the namespace does not end in a number to count on from.
    """
    count = values.get("robots", 1)
    if not 1 <= count <= MOST:
        raise GraphError(f"{where}: argument 'robots' is {count}, must be in [1, {MOST}]")
    if count == 1:
        return [Robot("", dict(values))]
    numbered = re.fullmatch(r"(/.*?)(\d+)", values["namespace"])
    if numbered is None:
        what = f"argument 'namespace' is {values['namespace']!r}"
        raise GraphError(f"{where}: {what}, must begin with / and end in a number with robots:={count}")
    stem, first = numbered.group(1), int(numbered.group(2))
    return [_robot(values, f"{stem}{first + index}", index) for index in range(count)]


def _robot(values: Mapping[str, Any], namespace: str, index: int) -> Robot:
    label = namespace.strip("/").replace("/", ".")
    own = {"namespace": namespace, "run": f"{values['run']}/{label}", "seed": values["seed"] + index}
    return Robot(label, {**values, **own})
