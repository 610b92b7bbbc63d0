"""A calibrated camera: intrinsics, and where it stands in the hand's base frame. Read from and written to YAML."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from softflow_node.files import write_atomically
from softflow_perception.rotations import FloatArray, from_quaternion, to_quaternion

DISTORTION = 5
"""k1 k2 p1 p2 k3, ROS's plumb_bob."""


COLOUR_DIFFERENCE = 60
"""[1/255] between red and blue, at least, of a mark that tells one from the other."""
MARK_HALF = 4
"""[pixels] half the edge of the square over which a mark's colour is taken."""


class CalibrationError(ValueError):
    """A camera file, board, pose or set of views that cannot be used; the text names file, field, value and bound."""


@dataclass(frozen=True)
class ColourMark:
    """A place in the picture whose colour is known and that nothing hides, such as a red sticker on the table."""

    u: int
    """[pixels] column"""
    v: int
    """[pixels] row"""
    rgb: tuple[int, ...]
    """(3,) [1/255]"""

    def fault(self, image: NDArray[np.uint8]) -> str:
        """Whether red and blue of a picture (H, W, 3) are swapped, in words; empty when they are not.

        Too little light, or a hand in front, is no fault.
        """
        top, left = max(0, self.v - MARK_HALF), max(0, self.u - MARK_HALF)
        patch = image[top : self.v + MARK_HALF + 1, left : self.u + MARK_HALF + 1]
        found, wanted = patch.mean(axis=(0, 1)), self.rgb[0] - self.rgb[2]
        difference = float(found[0] - found[2])
        if difference * np.sign(wanted) > -COLOUR_DIFFERENCE / 2:
            return ""
        r, g, b = (round(float(value)) for value in found)
        bound = f"{'above -' if wanted > 0 else 'below +'}{COLOUR_DIFFERENCE // 2}"
        return (
            f"mark at ({self.u}, {self.v}) is rgb ({r}, {g}, {b}): red - blue is {difference:+.0f}, must be {bound} "
            f"({wanted:+d} in the camera file): BGR sent as RGB"
        )


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
    mark: ColourMark | None = None
    """Where a picture shows whether red and blue are swapped; None: nobody looks."""

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

        if self.mark is not None:
            self._check_mark(self.mark)

    def _check_mark(self, mark: ColourMark) -> None:
        for name, value, size in (("u", mark.u, self.width), ("v", mark.v, self.height)):
            if not 0 <= value < size:
                raise CalibrationError(
                    f"camera {self.name}: mark.{name} is {value}, must be in [0, {size - 1}]"
                )
        if len(mark.rgb) != 3 or not all(0 <= value <= 255 for value in mark.rgb):
            raise CalibrationError(
                f"camera {self.name}: mark.rgb is {list(mark.rgb)}, must be 3 values in [0, 255]"
            )
        if abs(mark.rgb[0] - mark.rgb[2]) < COLOUR_DIFFERENCE:
            raise CalibrationError(
                f"camera {self.name}: mark.rgb is {list(mark.rgb)}, red and blue must differ by at least "
                f"{COLOUR_DIFFERENCE}"
            )

    @property
    def hash(self) -> str:
        """Sha256 (hex) of all numbers."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML."""
        mark = self.mark
        return {
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "matrix": [float(v) for v in self.matrix.ravel()],
            "distortion": [float(v) for v in self.distortion],
            "position": [float(v) for v in self.position],
            "quaternion": [float(v) for v in to_quaternion(self.rotation)],
            **({"mark": {"u": mark.u, "v": mark.v, "rgb": list(mark.rgb)}} if mark else {}),
        }

    def save(self, path: Path) -> None:
        """Write the camera file. Raises OSError."""
        write_atomically(path, yaml.safe_dump(self.to_dict(), sort_keys=False).encode())


_FIELDS = ("name", "width", "height", "matrix", "distortion", "position", "quaternion")
_OPTIONAL = ("mark",)


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
        if name not in (*_FIELDS, *_OPTIONAL):
            known = ", ".join((*_FIELDS, *_OPTIONAL))
            raise CalibrationError(f"{path}: unknown key {name!r}; known: {known}")
    try:
        return CameraModel(
            str(content["name"]),
            int(content["width"]),
            int(content["height"]),
            np.array(content["matrix"], dtype=np.float64).reshape(3, 3),
            np.array(content["distortion"], dtype=np.float64),
            from_quaternion(np.array(content["quaternion"], dtype=np.float64)),
            np.array(content["position"], dtype=np.float64),
            _to_mark(content.get("mark")),
        )
    except (ValueError, TypeError) as error:
        raise CalibrationError(f"{path}: {error}") from error


def _to_mark(content: Any) -> ColourMark | None:
    if content is None:
        return None
    if not isinstance(content, dict) or set(content) != {"u", "v", "rgb"}:
        raise ValueError(f"mark is {content!r}, must be a mapping of u, v and rgb")
    return ColourMark(int(content["u"]), int(content["v"]), tuple(int(value) for value in content["rgb"]))
