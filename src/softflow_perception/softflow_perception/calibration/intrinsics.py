"""Intrinsics of a camera from views of a board (Zhang 2000, by OpenCV), and whether the views are enough for them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from softflow_perception.calibration.views import Views
from softflow_perception.camera_model import CalibrationError
from softflow_perception.rotations import FloatArray, exp

MIN_VIEWS = 8
CELLS = (8, 6)
"""columns and rows that the picture is divided into, for the coverage"""
MIN_COVERAGE = 0.5
"""of the cells; where no corner was ever seen, distortion is a guess"""
MIN_TILT = 20.0
"""[degrees] between the two most different boards; from parallel ones no focal length follows"""
MAX_FOCAL_DEVIATION = 0.01
"""of the focal length, standard deviation"""
MAX_ERROR = 1.0
"""[pixels] root mean square over all corners"""
OUTLIER = 3.0
"""times the median: a view with a larger error is left out, once"""


@dataclass(frozen=True)
class Intrinsics:
    """What the views say."""

    views: Views
    matrix: FloatArray
    """K (3, 3) [pixels]"""
    distortion: FloatArray
    """(5,) k1 k2 p1 p2 k3"""
    deviation: FloatArray
    """[pixels] (4,) standard deviations of fx, fy, cx, cy"""
    error: float
    """[pixels] root mean square over all corners"""
    view_errors: FloatArray
    """[pixels] (V,) of each view"""
    residuals: list[FloatArray]
    """[pixels] (N, 2) of each view, seen minus projected"""
    coverage: float
    """of the cells in which a corner was seen"""
    tilt: float
    """[degrees] between the two most different boards"""


def calibrate(views: Views) -> Intrinsics:
    """Intrinsics from views; one with an error far above the others' is left out.

    Raises CalibrationError where there are too few views, they are too alike, or do not fit; it names value and bound.
    """
    views.at_least(MIN_VIEWS)
    found = coverage(views)
    if found < MIN_COVERAGE:
        raise CalibrationError(
            f"coverage is {100 * found:.0f} % of the picture's cells, must be at least {100 * MIN_COVERAGE:.0f} %: "
            "the board must be seen in the corners too"
        )
    first = _fit(views)
    outliers = outlying(first.views, first.view_errors)
    if outliers:
        views = views.without(outliers)
        views.at_least(MIN_VIEWS)
        first = _fit(views)
    _require_good(first)
    return first


def outlying(views: Views, errors: FloatArray) -> dict[str, str]:
    """Views whose error [pixels] is far above the median of all (V,): name -> why."""
    limit = OUTLIER * max(float(np.median(errors)), 0.1)
    return {
        view.name: f"error is {error:.2f} pixels, {OUTLIER:g} times the median is {limit:.2f}"
        for view, error in zip(views.good, errors, strict=True)
        if error > limit
    }


def coverage(views: Views) -> float:
    """Share of the picture's cells in which a point was seen."""
    seen = {
        (int(x * CELLS[0] / views.width), int(y * CELLS[1] / views.height))
        for view in views.good
        for x, y in view.pixels
    }
    return len(seen) / (CELLS[0] * CELLS[1])


def _fit(views: Views) -> Intrinsics:
    points = [view.points.astype(np.float32) for view in views.good]
    pixels = [view.pixels.astype(np.float32) for view in views.good]
    try:
        error, matrix, distortion, turns, shifts, deviation, _, view_errors = cv2.calibrateCameraExtended(
            points, pixels, (views.width, views.height), None, None
        )
    except cv2.error as error_of_opencv:
        raise CalibrationError(f"no camera fits the views: {error_of_opencv.err}") from error_of_opencv
    residuals = []
    for view, turn, shift in zip(views.good, turns, shifts, strict=True):
        projected, _ = cv2.projectPoints(view.points, turn, shift, matrix, distortion)
        residuals.append(view.pixels - projected.reshape(-1, 2))
    return Intrinsics(
        views,
        np.asarray(matrix, dtype=np.float64),
        np.asarray(distortion, dtype=np.float64).ravel(),
        np.asarray(deviation, dtype=np.float64).ravel()[:4],
        float(error),
        np.asarray(view_errors, dtype=np.float64).ravel(),
        residuals,
        coverage(views),
        _tilt([exp(np.asarray(turn, dtype=np.float64).ravel())[:, 2] for turn in turns]),
    )


def _tilt(normals: list[FloatArray]) -> float:
    """[degrees] largest angle between two normals (3,)."""
    stacked = np.array(normals)
    return float(np.rad2deg(np.arccos(np.clip(stacked @ stacked.T, -1, 1).min())))


def _require_good(found: Intrinsics) -> None:
    # First: what does not fit makes all that follows uncertain too.
    if found.error > MAX_ERROR:
        raise CalibrationError(
            f"error is {found.error:.2f} pixels (root mean square), must be at most {MAX_ERROR:g}: "
            "another board than its file says, or not flat?"
        )
    if found.tilt < MIN_TILT:
        raise CalibrationError(
            f"tilt is {found.tilt:.1f} degrees between the most different boards, must be at least {MIN_TILT:g}"
        )
    share = float((found.deviation[:2] / np.diag(found.matrix)[:2]).max())
    if not share <= MAX_FOCAL_DEVIATION:
        raise CalibrationError(
            f"focal length is uncertain by {100 * share:.1f} %, must be at most {100 * MAX_FOCAL_DEVIATION:g} %: "
            "more boards, nearer and tilted to all sides"
        )
