"""A ChArUco board: its measures, its file, its picture for the printer."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from softflow_node.files import write_atomically
from softflow_perception.camera_model import CalibrationError

DOTS_PER_INCH = 300
INCH = 0.0254
"""[m]"""


@dataclass(frozen=True)
class Board:
    """Its frame is OpenCV's: origin in the outer corner at the top left, x right, y down, z into the board."""

    columns: int = 7
    """squares side by side"""
    rows: int = 5
    square: float = 0.030
    """[m] edge of a square, as measured on the print"""
    marker: float = 0.022
    """[m] edge of a tag's black square"""
    dictionary: str = "DICT_5X5_100"
    """of OpenCV; not the cube's, so that a cube in the picture is no part of the board"""
    legacy: bool = False
    """the pattern of OpenCV before 4.6 and of some makers: differs where `rows` is even"""

    def __post_init__(self) -> None:
        """Raises CalibrationError."""
        for name in ("columns", "rows"):
            value = getattr(self, name)
            if type(value) is not int or not 3 <= value <= 40:
                raise CalibrationError(f"board: {name} is {value!r}, must be a whole number in [3, 40]")
        for name, low, high in (("square", 0.002, 1.0), ("marker", 0.3 * self.square, 0.95 * self.square)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not low <= value <= high:
                raise CalibrationError(f"board: {name} is {value!r} m, must be in [{low:g}, {high:g}]")
        if type(self.legacy) is not bool:
            raise CalibrationError(f"board: legacy is {self.legacy!r}, must be true or false")
        if not str(self.dictionary).startswith("DICT_") or not hasattr(cv2.aruco, str(self.dictionary)):
            raise CalibrationError(
                f"board: dictionary is {self.dictionary!r}, not one of OpenCV's, such as DICT_5X5_100"
            )
        known = len(predefined(self.dictionary).bytesList)
        if self.tags > known:
            raise CalibrationError(
                f"board: {self.columns} x {self.rows} squares need {self.tags} tags, {self.dictionary} has {known}"
            )

    @property
    def tags(self) -> int:
        """How many there are; their numbers begin at 0. Of the two colours, the one of the top left has none."""
        return self.columns * self.rows // 2

    @property
    def text(self) -> str:
        """Its size, for people."""
        old = ", legacy pattern" if self.legacy else ""
        return (
            f"{self.columns} x {self.rows} squares of {1000 * self.square:g} mm, "
            f"tags of {1000 * self.marker:g} mm, {self.dictionary}{old}"
        )

    def opencv(self) -> Any:
        """The cv2.aruco.CharucoBoard."""
        board = cv2.aruco.CharucoBoard(
            (self.columns, self.rows), self.square, self.marker, predefined(self.dictionary)
        )
        board.setLegacyPattern(self.legacy)
        return board

    def draw(self, pixels: int) -> NDArray[np.uint8]:
        """Picture (rows * pixels, columns * pixels), grey; `pixels` an edge of a square, without a margin."""
        return np.asarray(self.opencv().generateImage((self.columns * pixels, self.rows * pixels)), np.uint8)

    def png(self) -> bytes:
        """PNG file to print: the board with a white margin and its size below, with the resolution that makes it so."""
        pixels = round(self.square / INCH * DOTS_PER_INCH)
        drawn, margin = self.draw(pixels), pixels // 2
        page = np.full((drawn.shape[0] + 2 * margin, drawn.shape[1] + 2 * margin), 255, np.uint8)
        page[margin:-margin, margin:-margin] = drawn
        image = Image.fromarray(page)
        lines = f"{self.text}\nprint at 100 %, measure a square, correct `square` and `marker` in the .yaml"
        size = min(0.3 * margin, 1.6 * drawn.shape[1] / len(lines))
        ImageDraw.Draw(image).text(
            (margin, page.shape[0] - 0.9 * margin), lines, fill=0, font_size=max(8.0, size)
        )
        buffer = io.BytesIO()
        per_inch = pixels / self.square * INCH
        image.save(buffer, "PNG", dpi=(per_inch, per_inch))
        return buffer.getvalue()

    def save(self, path: Path) -> None:
        """Write the board file. Raises OSError."""
        write_atomically(path, yaml.safe_dump(asdict(self), sort_keys=False).encode())


def predefined(dictionary: str) -> Any:
    """OpenCV's dictionary of a name."""
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))


def load_board(path: Path) -> Board:
    """Read a board file.

    Raises:
        CalibrationError: not YAML, a field unknown or out of its bounds.
        OSError: cannot be read.
    """
    content = read_mapping(path)
    known = [field.name for field in fields(Board)]
    for name in content:
        if name not in known:
            raise CalibrationError(f"{path}: unknown key {name!r}; known: {', '.join(known)}")
    for name in known:
        if name not in content:
            raise CalibrationError(f"{path}: {name} is missing")
    try:
        return Board(**content)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises CalibrationError, OSError."""
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CalibrationError(f"{path}: must be a mapping, is {type(content).__name__}")
    return {str(name): value for name, value in content.items()}
