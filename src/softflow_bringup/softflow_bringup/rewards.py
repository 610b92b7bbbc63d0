"""Who rewards the steps of a graph, and what others are told of it. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softflow_bringup.values import GraphError

OBSERVERS = 3
"""Who reads `observation` in every graph of a robot: policy, teacher or teleoperation; recorder; episode manager."""


def reward_values(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the arguments `classifier` and `teleop`, to be named as `$(arg ...)` like an argument.

    `reward`: classifier where a file is given, else task. `observers`: so many subscribers of `observation` the
    episode manager waits for; None where a graph adds none, so that what a parameter file says holds.

    Raises:
        GraphError: a classifier without the pictures of a camera.
    """
    classifier = str(values.get("classifier", ""))
    if classifier and not values.get("pictures"):
        raise GraphError(
            f"{where}: argument 'pictures' is '', must name the cameras of the classifier {classifier!r}"
        )
    more = bool(classifier) + (values.get("teleop") is True)
    return {
        "reward": "classifier" if classifier else "task",
        "observers": OBSERVERS + more if more else None,
    }
