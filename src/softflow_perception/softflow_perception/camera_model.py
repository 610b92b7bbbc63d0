"""A calibrated camera: intrinsics, and where it stands in the hand's base frame. Read from and written to YAML."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from softflow_node.files import write_atomically
from softflow_perception.rotations import FloatArray, from_quaternion, to_quaternion

DISTORTION = 5
"""k1 k2 p1 p2 k3, ROS's plumb_bob."""


class CalibrationError(ValueError):
    """A camera file, board, pose or set of views that cannot be used; the text names file, field, value and bound."""


@dataclass(frozen=True)
class CameraModel:
    """Pinhole with plumb_bob distortion. The camera's frame is the optical one: x right, y down, z forward."""

    name: str
    width: int
    """[pixels]"""
    height: int
    """[pixels]"""
    matrix: FloatArray
    """K (3, 3) [pixels]"""
    distortion: FloatArray = field(default_factory=lambda: np.zeros(DISTORTION))
    """(5,)"""
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))
    """(3, 3), base from camera: a point x in the camera's frame is `rotation @ x + position` in the base's."""
    position: FloatArray = field(default_factory=lambda: np.zeros(3))
    """[m] (3,)"""

    def __post_init__(self) -> None:
        for name, size in (("width", self.width), ("height", self.height)):
            if not 1 <= size <= 10_000:
                raise CalibrationError(f"camera {self.name}: {name} is {size} pixels, must be in [1, 10000]")
        for name, shape in (
            ("matrix", (3, 3)),
            ("distortion", (5,)),
            ("rotation", (3, 3)),
            ("position", (3,)),
        ):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise CalibrationError(
                    f"camera {self.name}: {name} is {value.tolist()}, must be finite with shape {shape}"
                )
            object.__setattr__(self, name, value)
        if self.matrix[0, 0] <= 0 or self.matrix[1, 1] <= 0:
            raise CalibrationError(
                f"camera {self.name}: focal lengths are {self.matrix[0, 0]}, {self.matrix[1, 1]}, must be above 0"
            )

    @property
    def hash(self) -> str:
        """Sha256 (hex) of all numbers."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML."""
        return {
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "matrix": [float(v) for v in self.matrix.ravel()],
            "distortion": [float(v) for v in self.distortion],
            "position": [float(v) for v in self.position],
            "quaternion": [float(v) for v in to_quaternion(self.rotation)],
        }

    def save(self, path: Path) -> None:
        """Write the camera file. Raises OSError."""
        write_atomically(path, yaml.safe_dump(self.to_dict(), sort_keys=False).encode())


_FIELDS = ("name", "width", "height", "matrix", "distortion", "position", "quaternion")


def load_camera(path: Path) -> CameraModel:
    """Read a camera file.

    Raises:
        CalibrationError: not YAML, a field missing or unknown, or of the wrong size.
        OSError: cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CalibrationError(f"{path}: must be a mapping, is {type(content).__name__}")
    for name in _FIELDS:
        if name not in content:
            raise CalibrationError(f"{path}: {name} is missing")
    for name in content:
        if name not in _FIELDS:
            raise CalibrationError(f"{path}: unknown key {name!r}; known: {', '.join(_FIELDS)}")
    try:
        return CameraModel(
            str(content["name"]),
            int(content["width"]),
            int(content["height"]),
            np.array(content["matrix"], dtype=np.float64).reshape(3, 3),
            np.array(content["distortion"], dtype=np.float64),
            from_quaternion(np.array(content["quaternion"], dtype=np.float64)),
            np.array(content["position"], dtype=np.float64),
        )
    except (ValueError, TypeError) as error:
        raise CalibrationError(f"{path}: {error}") from error
