"""Pose of a body with ArUco tags: detection in each camera, then one least-squares fit over all tags and cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from softflow_perception.camera_model import CameraModel
from softflow_perception.rotations import FloatArray, cross_matrix, exp

Corners = dict[int, FloatArray]
"""Tag number -> (4, 2) [pixels], in OpenCV's order."""
CORNER_NOISE = 0.3
"""[pixels] standard deviation of a corner, for the covariance; more where the fit says more."""
MAX_ERROR = 3.0
"""[pixels] a tag whose corners are further off after the fit is left out: wrongly read, or half covered."""
ITERATIONS = 10


class TagDetector:
    """Finds tags in grey images."""

    def __init__(self, dictionary: str) -> None:
        """Raises ValueError for a dictionary that OpenCV does not know."""
        if not hasattr(cv2.aruco, dictionary):
            raise ValueError(f"dictionary is {dictionary!r}, not one of OpenCV's, such as DICT_4X4_50")
        self._dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))
        self._parameters = cv2.aruco.DetectorParameters()
        self._parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
        # The default of 5 pixels would refine a small tag's corner into its neighbour.
        self._parameters.cornerRefinementWinSize = 3
        self._detector = cv2.aruco.ArucoDetector(self._dictionary, self._parameters)

    def detect(self, grey: NDArray[np.uint8]) -> Corners:
        """Tags in an image (H, W); one that is seen twice is ambiguous and left out."""
        corners, numbers, _ = self._detector.detectMarkers(grey)
        found: Corners = {}
        twice: set[int] = set()
        for quad, number in zip(corners, [] if numbers is None else numbers.ravel().tolist(), strict=True):
            if number in found:
                twice.add(number)
            found[number] = np.asarray(quad, dtype=np.float64).reshape(4, 2)
        return {number: quad for number, quad in found.items() if number not in twice}


@dataclass(frozen=True)
class PoseEstimate:
    """Pose of the body in the hand's base frame."""

    position: FloatArray
    """[m] (3,)"""
    rotation: FloatArray
    """(3, 3), base from body"""
    covariance: FloatArray
    """(6, 6) of (position [m], rotation vector in the base frame [rad])"""
    error: float
    """[pixels] root mean square over the corners that were used"""
    tags: int
    """views of tags that were used, all cameras together"""


@dataclass(frozen=True)
class _Views:
    """All tags of all cameras, V views of four corners. The focal lengths turn residuals into pixels."""

    model: FloatArray
    """(V, 4, 3) [m] in the body's frame"""
    rays: FloatArray
    """(V, 4, 2) undistorted, at depth 1"""
    focal: FloatArray
    """(V, 2) [pixels]"""
    rotation: FloatArray
    """(V, 3, 3), base from camera"""
    position: FloatArray
    """[m] (V, 3) of the camera in the base's frame"""

    def __len__(self) -> int:
        return len(self.model)

    def where(self, keep: NDArray[np.bool_]) -> _Views:
        return _Views(
            self.model[keep], self.rays[keep], self.focal[keep], self.rotation[keep], self.position[keep]
        )


def estimate(
    seen: Sequence[tuple[CameraModel, Corners]],
    model: Mapping[int, FloatArray],
    prior: PoseEstimate | None = None,
) -> PoseEstimate | None:
    """Pose from the tags of all cameras; None where no known tag is seen or nothing fits.

    `model`: tag number -> corners (4, 3) [m] in the body's frame. `prior`: where the body was a moment ago; it starts
    the fit and decides between the two poses that a single small square allows. Minimises the reprojection error by
    Gauss-Newton; the covariance is that of the linearised fit.
    """
    views = _views(seen, model)
    while len(views):
        fits = [_fit(views, start) for start in _starts(views, prior)]
        good = [fit for fit in fits if fit is not None]
        if not good:
            return None
        best = min(good, key=lambda fit: fit.error + _distance(fit, prior))
        errors = _tag_errors(views, best)
        if errors.max() <= MAX_ERROR:
            return best
        views = views.where(np.arange(len(views)) != int(np.argmax(errors)))
    return None


def _views(seen: Sequence[tuple[CameraModel, Corners]], model: Mapping[int, FloatArray]) -> _Views:
    rows = []
    for camera, corners in seen:
        known = [number for number in corners if number in model]
        if not known:
            continue
        quads = np.concatenate([corners[number] for number in known]).reshape(-1, 1, 2)
        rays = np.asarray(cv2.undistortPoints(quads, camera.matrix, camera.distortion)).reshape(-1, 4, 2)
        for number, quad in zip(known, rays, strict=True):
            focal = np.diag(camera.matrix)[:2]
            rows.append((model[number], quad, focal, camera.rotation, camera.position))
    if not rows:
        return _Views(*(np.zeros((0, *shape)) for shape in ((4, 3), (4, 2), (2,), (3, 3), (3,))))
    return _Views(*(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)))


def _distance(fit: PoseEstimate, prior: PoseEstimate | None) -> float:
    """[pixels] that a fit far from the prior is worse by: a flip between two frames is not how bodies move."""
    if prior is None:
        return 0.0
    cosine = (np.trace(fit.rotation.T @ prior.rotation) - 1) / 2
    return float(2.0 * np.arccos(np.clip(cosine, -1.0, 1.0)))


def _starts(views: _Views, prior: PoseEstimate | None) -> list[tuple[FloatArray, FloatArray]]:
    """Rotations and positions, base from body, to begin the fit with: the prior, else both poses of the largest tag."""
    if prior is not None and len(views) > 1:
        return [(prior.rotation, prior.position)]
    areas = [float(cv2.contourArea(quad.astype(np.float32))) for quad in views.rays]
    i = int(np.argmax(areas))
    starts = [] if prior is None else [(prior.rotation, prior.position)]
    _, turns, shifts, _ = cv2.solvePnPGeneric(
        views.model[i], views.rays[i].reshape(-1, 1, 2), np.eye(3), None, flags=cv2.SOLVEPNP_IPPE
    )
    for turn, shift in zip(turns, shifts, strict=True):
        if np.isfinite(turn).all() and np.isfinite(shift).all():
            rotation = views.rotation[i] @ exp(np.asarray(turn, dtype=np.float64).ravel())
            starts.append((rotation, views.rotation[i] @ shift.ravel() + views.position[i]))
    return starts


def _fit(views: _Views, start: tuple[FloatArray, FloatArray]) -> PoseEstimate | None:
    rotation, position = start
    for _ in range(ITERATIONS):
        linear = _linearised(views, rotation, position)
        if linear is None:
            return None
        residual, jacobian = linear
        information = jacobian.T @ jacobian
        if not np.isfinite(information).all() or np.linalg.cond(information) > 1e12:
            return None
        step: FloatArray = np.linalg.solve(information, -jacobian.T @ residual).astype(np.float64)
        position = position + step[:3]
        rotation = exp(step[3:]) @ rotation
        if float(np.abs(step).max()) < 1e-6:
            break
    linear = _linearised(views, rotation, position)
    if linear is None:
        return None
    residual, jacobian = linear
    error = float(np.sqrt(np.mean(residual**2)))
    covariance = max(CORNER_NOISE, error) ** 2 * np.linalg.inv(jacobian.T @ jacobian).astype(np.float64)
    return PoseEstimate(position, rotation, covariance, error, len(views))


def _linearised(
    views: _Views, rotation: FloatArray, position: FloatArray
) -> tuple[FloatArray, FloatArray] | None:
    """Residuals (8V,) [pixels] and their derivatives (8V, 6) by position and rotation vector; None behind a camera."""
    turned = views.model @ rotation.T
    points = (turned + position - views.position[:, None]) @ views.rotation
    depth = points[..., 2:]
    if not (depth > 1e-3).all():
        return None
    projected = points[..., :2] / depth
    residual = (projected - views.rays) * views.focal[:, None]
    # d projected / d point, then d point / d (position, rotation vector).
    outer = np.zeros((*points.shape[:2], 2, 3))
    outer[..., 0, 0] = outer[..., 1, 1] = 1 / depth[..., 0]
    outer[..., 2] = -projected / depth
    outer *= views.focal[:, None, :, None]
    by_position = outer @ views.rotation.swapaxes(1, 2)[:, None]
    by_rotation = -by_position @ cross_matrix(turned)
    jacobian = np.concatenate([by_position, by_rotation], axis=-1)
    return residual.ravel(), jacobian.reshape(-1, 6)


def _tag_errors(views: _Views, pose: PoseEstimate) -> FloatArray:
    """[pixels] (V,) largest of each tag's corners."""
    linear = _linearised(views, pose.rotation, pose.position)
    if linear is None:
        return np.full(len(views), np.inf)
    return np.asarray(np.linalg.norm(linear[0].reshape(-1, 4, 2), axis=-1).max(axis=1))
