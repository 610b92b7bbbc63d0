"""The cameras of a graph: which nodes there are for them, and what others are told of them. Pure Python."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from softflow_bringup.values import GraphError
from softflow_node.topics import parse_cameras

EACH = "camera"
"""A node entry with `each: camera` stands for one node per camera; `$(arg camera)` is the camera's name there."""
LOOKS = "front"
"""The camera that looks for the object with `eyes:=camera`."""


def add_pictures(parser: argparse.ArgumentParser, text: str) -> None:
    """The option `--pictures [CAMERAS]`, for the graph argument of that name."""
    parser.add_argument(
        "--pictures", nargs="?", default="", const=LOOKS, metavar="CAMERAS", help=f"{text}; alone: {LOOKS}"
    )


def camera_values(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the arguments `pictures` and `eyes`, to be named as `$(arg ...)` like an argument.

    `image_topics`, `reliable_images`: of the cameras whose pictures are recorded and named; None without any, so that
    what a parameter file says holds.

    Raises:
        GraphError: `pictures` is not names with + between them.
    """
    names = pictured(where, values)
    topics = ",".join(f"camera/{name}/image/compressed" for name in names)
    return {"image_topics": topics or None, "reliable_images": True if names else None}


def pictured(where: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Cameras whose pictures are wanted. Raises GraphError."""
    try:
        return parse_cameras(values.get("pictures", ""))
    except ValueError as error:
        raise GraphError(f"{where}: argument 'pictures': {error}") from error


def cameras(where: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each camera that is needed its name, and whether its pictures are recorded. Raises GraphError."""
    names = pictured(where, values)
    needed = dict.fromkeys((*([LOOKS] if values.get("eyes") == "camera" else []), *names))
    return [{"camera": name, "recorded": name in names} for name in needed]
