"""Pictures of a known target: reading them, finding the target's points, saying why one is of no use."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from softflow_node.pictures import FrameError, decode_grey
from softflow_perception.calibration.board import Board, predefined
from softflow_perception.camera_model import CalibrationError
from softflow_perception.fiducial import TagDetector
from softflow_perception.rotations import FloatArray
from softflow_tasks.cube_tags import DICTIONARY, tag_corners

Grey = NDArray[np.uint8]
"""(H, W)"""
SUFFIXES = (".png", ".jpg", ".jpeg")
MIN_POINTS = 8
"""of a view: two more than a pose of a plane and its check need"""
MIN_CONTRAST = 20
"""[grey levels] between the darkest and the brightest hundredth of a picture"""
MAX_BLUR = 2.0
"""[pixels] standard deviation of an edge; above it a corner's place is uncertain by tenths of a pixel"""
FAMILIES = ("DICT_4X4_1000", "DICT_5X5_1000", "DICT_6X6_1000", "DICT_7X7_1000", "DICT_APRILTAG_36h11")
"""Dictionaries tried to say what another board is."""
VIDEO_FRAMES = 600
"""Frames of a video that are looked at, evenly over its length."""
VIDEO_MOTION = 0.04
"""of the picture's width: a frame of a video whose points are nearer than this to another's says nothing new"""


class UnusableError(ValueError):
    """A picture that cannot be used; the text says why."""


@dataclass(frozen=True)
class View:
    """What one picture shows of the target."""

    name: str
    points: FloatArray
    """(N, 3) [m] in the target's frame"""
    pixels: FloatArray
    """(N, 2)"""


@dataclass(frozen=True)
class Views:
    """All pictures of a camera."""

    width: int
    height: int
    good: list[View]
    unusable: dict[str, str]
    """name -> why"""

    def without(self, reasons: dict[str, str]) -> Views:
        """The same without some, which count as unusable from now on."""
        good = [view for view in self.good if view.name not in reasons]
        return dataclasses.replace(self, good=good, unusable={**self.unusable, **reasons})

    def at_least(self, least: int) -> None:
        """Raises CalibrationError where fewer pictures are of use."""
        if len(self.good) < least:
            causes = "".join(f"\n  {name}: {why}" for name, why in self.unusable.items())
            raise CalibrationError(f"{len(self.good)} usable views, must be at least {least}{causes}")


class Target(Protocol):
    """Something with points that are known and seen."""

    def find(self, grey: Grey) -> tuple[FloatArray, FloatArray]:
        """Points (N, 3) [m] and where they are seen (N, 2) [pixels]. Raises UnusableError."""


class BoardTarget:
    """The inner corners of a ChArUco board."""

    def __init__(self, board: Board) -> None:
        self._board, self._opencv = board, board.opencv()
        self._detector = cv2.aruco.CharucoDetector(self._opencv)

    def find(self, grey: Grey) -> tuple[FloatArray, FloatArray]:
        corners, numbers, quads, tags = self._detector.detectBoard(grey)
        seen = [] if tags is None else tags.ravel().tolist()
        if not seen:
            raise UnusableError(why_nothing(grey, self._board.dictionary))
        foreign = sorted(number for number in seen if number >= self._board.tags)
        if foreign:
            raise UnusableError(
                f"wrong board: shows tag {foreign[-1]}, the board of {self._board.text} ends at {self._board.tags - 1}"
            )
        require_sharp(
            grey, np.concatenate([np.asarray(quad, dtype=np.float64).reshape(4, 2) for quad in quads])
        )
        found = 0 if numbers is None else len(numbers)
        if found == 0 and len(seen) >= 4:
            raise UnusableError(
                f"wrong board: its {len(seen)} tags are not arranged as on the board of {self._board.text}"
            )
        if found < MIN_POINTS:
            raise UnusableError(f"{found} corners of the board seen, must be at least {MIN_POINTS}")
        points = np.asarray(self._opencv.getChessboardCorners(), dtype=np.float64)[numbers.ravel()]
        if np.ptp(points[:, :2], axis=0).min() < 0.5 * self._board.square:
            raise UnusableError(f"the {found} corners seen lie on one line, must be on two at least")
        return points, np.asarray(corners, dtype=np.float64).reshape(-1, 2)


class CubeTarget:
    """The corners of the tags on the task's cube."""

    def __init__(self) -> None:
        self._tags, self._model = TagDetector(DICTIONARY), tag_corners()

    def find(self, grey: Grey) -> tuple[FloatArray, FloatArray]:
        seen = {number: quad for number, quad in self._tags.detect(grey).items() if number in self._model}
        if not seen:
            raise UnusableError(why_nothing(grey, DICTIONARY))
        points = np.concatenate([self._model[number] for number in seen])
        if len(points) < MIN_POINTS:
            raise UnusableError(f"{len(points)} corners of tags seen, must be at least {MIN_POINTS}")
        pixels = np.concatenate(list(seen.values()))
        require_sharp(grey, pixels)
        return points, pixels


def edge_width(grey: Grey) -> float:
    """[pixels] standard deviation of the blur at a picture's edges, the worse of two directions; inf where none is.

    An edge of height h, blurred by a Gaussian of deviation s, has the slope h / (s sqrt(2 pi)) in its middle. Motion
    blurs the edges across it and leaves those along it. The pixels themselves add about 0.2 to a sharp one.
    """
    image = grey.astype(np.float64)
    low, high = np.percentile(image, (2, 98))
    dy, dx = np.gradient(image)
    slope: FloatArray = np.hypot(dx, dy)
    steepest = int(np.argmax(slope))
    across = np.array([-dy.flat[steepest], dx.flat[steepest]]) / max(float(slope.flat[steepest]), 1e-9)
    # Where a corner mixes both directions, only the part across the steepest edge's direction counts.
    gentlest = float(np.abs(dx * across[0] + dy * across[1]).max())
    return float((high - low) / (gentlest * np.sqrt(2 * np.pi))) if gentlest > 0 else np.inf


def require_sharp(grey: Grey, pixels: FloatArray) -> None:
    """Raises UnusableError where the edges around points (N, 2) are blurred, in the median."""
    apart = np.linalg.norm(pixels[:, None] - pixels[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    radius = int(np.clip(0.35 * np.median(apart.min(axis=1)), 4, 24))
    widths = []
    for x, y in np.rint(pixels).astype(int):
        patch = grey[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        widths.append(edge_width(patch))
    width = float(np.median(widths))
    if width > MAX_BLUR:
        raise UnusableError(f"blurred: its edges are {width:.1f} pixels wide, must be at most {MAX_BLUR:g}")


def why_nothing(grey: Grey, dictionary: str) -> str:
    """What is wrong with a picture that shows no tag of a dictionary."""
    low, high = np.percentile(grey, (1, 99))
    if high - low < MIN_CONTRAST:
        return f"blank: its brightness spans {high - low:.0f} grey levels, must be at least {MIN_CONTRAST}"
    width = edge_width(grey)
    if width > MAX_BLUR:
        return f"blurred: its edges are {width:.1f} pixels wide, must be at most {MAX_BLUR:g}"
    for family in FAMILIES:
        numbers = cv2.aruco.ArucoDetector(predefined(family)).detectMarkers(grey)[1]
        if numbers is not None and len(numbers) >= 4:
            return f"wrong board: shows tags of {family}, must be of {dictionary}"
    return f"no tag of {dictionary} seen"


def views_of_images(directory: Path, target: Target) -> Views:
    """All pictures (PNG, JPEG) of a directory, by name.

    Raises:
        CalibrationError: there is none, or they differ in size.
        OSError: cannot be read.
    """
    paths = sorted(path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise CalibrationError(f"{directory}: no picture with a name that ends in {', '.join(SUFFIXES)}")
    return _views(((path.name, path.read_bytes()) for path in paths), target)


def views_of_video(path: Path, target: Target) -> Views:
    """Frames of a video in which the target is at different places.

    Raises CalibrationError where the file is no video.
    """
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise CalibrationError(f"{path}: cannot be opened as a video")
        step = max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // VIDEO_FRAMES)
        return _different(_views(_frames(capture, step), target))
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, step: int) -> Iterator[tuple[str, Grey]]:
    number = 0
    while capture.grab():
        if number % step == 0:
            ok, image = capture.retrieve()
            if ok:
                yield f"frame {number}", np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
        number += 1


def _views(pictures: Iterable[tuple[str, Grey | bytes]], target: Target) -> Views:
    size: tuple[int, int] | None = None
    good, unusable = [], {}
    for name, picture in pictures:
        try:
            grey = decode_grey(picture) if isinstance(picture, bytes) else picture
            here = (grey.shape[1], grey.shape[0])
            size = size or here
            if here != size:
                raise CalibrationError(
                    f"{name}: is {here[0]}x{here[1]} pixels, those before it are {size[0]}x{size[1]}"
                )
            good.append(View(name, *target.find(grey)))
        except (UnusableError, FrameError) as error:
            unusable[name] = str(error)
    if size is None:
        raise CalibrationError(f"{len(unusable)} pictures, and none could be read")
    return Views(*size, good, unusable)


def _different(views: Views) -> Views:
    """One view of each place: the many equal ones of a video are no mistake and not reported, unusable ones by kind."""
    kept: list[View] = []
    for view in views.good:
        if all(_distance(view, other) > VIDEO_MOTION * views.width for other in kept):
            kept.append(view)
    kinds: dict[str, list[str]] = {}
    for name, why in views.unusable.items():
        kinds.setdefault(re.sub(r"[\d.]+", "", why), []).append(name)
    unusable = {}
    for names in kinds.values():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        unusable[f"{names[0]}{more}"] = views.unusable[names[0]]
    return dataclasses.replace(views, good=kept, unusable=unusable)


def _distance(a: View, b: View) -> float:
    """[pixels] mean over the points that both show; inf where none is."""
    places = {tuple(point): pixel for point, pixel in zip(a.points, a.pixels, strict=True)}
    moved = [
        np.linalg.norm(pixel - places[tuple(point)])
        for point, pixel in zip(b.points, b.pixels, strict=True)
        if tuple(point) in places
    ]
    return float(np.mean(moved)) if moved else np.inf
