"""Where a fixed camera stands in the hand's base frame, from views of a target at recorded poses.

Two cases. Known target: the poses are the target's own, in the base frame (a jig, a board at the base). Carried target:
it is fastened to a moving link in an unmeasured way, and the poses are the link's; then the fastening is found along
with the camera (A X = Z B; start by Shah 2013 in OpenCV). Both end in one least-squares fit of the reprojection error
of all points of all views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from softflow_perception.calibration.board import read_mapping
from softflow_perception.calibration.intrinsics import outlying
from softflow_perception.calibration.views import View, Views
from softflow_perception.camera_model import CalibrationError, CameraModel
from softflow_perception.rotations import FloatArray, exp, from_quaternion, log

MIN_VIEWS = 3
MIN_VIEWS_CARRIED = 6
MIN_TURN = 10.0
"""[degrees] root mean square of the link's turns about the second of their axes; about one axis alone, the place along
it stays open"""
MAX_ERROR = 2.0
"""[pixels] root mean square over all points"""
MAX_DEVIATION = (0.002, 0.5)
"""[m], [degrees] standard deviation of the camera's place that the views leave"""
ITERATIONS = 50
CANDIDATES = 12
"""Places that single views propose, tried as a start."""


@dataclass(frozen=True)
class Pose:
    """A frame in another one: a point x of it is `rotation @ x + position` there."""

    rotation: FloatArray
    """(3, 3)"""
    position: FloatArray
    """[m] (3,)"""

    def __matmul__(self, other: Pose) -> Pose:
        return Pose(self.rotation @ other.rotation, self.rotation @ other.position + self.position)

    def inverse(self) -> Pose:
        return Pose(self.rotation.T, -self.rotation.T @ self.position)

    def moved(self, step: FloatArray) -> Pose:
        """By (6,): metres, then a rotation vector [rad] on its own origin."""
        return Pose(exp(step[3:]) @ self.rotation, self.position + step[:3])


STILL = Pose(np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class HandEye:
    """What the views say."""

    views: Views
    camera: Pose
    """of the camera, in the base frame"""
    mount: Pose
    """of the target, in the link's frame; STILL where the poses are the target's"""
    error: float
    """[pixels] root mean square over all points"""
    view_errors: FloatArray
    """[pixels] (V,) of each view"""
    residuals: list[FloatArray]
    """[pixels] (N, 2) of each view, seen minus projected"""
    deviation: tuple[float, float]
    """[m], [degrees] standard deviation of the camera's place and direction, the largest over the axes; as if the
    intrinsics were exact"""
    disagreement: FloatArray
    """(V, 2) [m], [degrees] between the camera's pose of all views and that of each alone"""


def load_poses(path: Path) -> dict[str, Pose]:
    """Read a file of poses: picture's name -> {position: [x, y, z] in m, quaternion: [x, y, z, w]}, in the base frame.

    Raises:
        CalibrationError: not YAML, a field missing, unknown or not finite.
        OSError: cannot be read.
    """
    poses = {}
    for name, value in read_mapping(path).items():
        if not isinstance(value, dict) or set(value) != {"position", "quaternion"}:
            raise CalibrationError(
                f"{path}: {name}: is {value!r}, must have position and quaternion, no more"
            )
        try:
            position = np.array(value["position"], dtype=np.float64)
            quaternion = np.array(value["quaternion"], dtype=np.float64)
            if position.shape != (3,) or not np.isfinite(position).all():
                raise ValueError(f"position is {value['position']!r}, must be 3 finite numbers")
            if quaternion.shape != (4,) or abs(float(np.linalg.norm(quaternion)) - 1) > 0.01:
                raise ValueError(f"quaternion is {value['quaternion']!r}, must be 4 numbers of length 1")
            poses[name] = Pose(from_quaternion(quaternion), position)
        except (TypeError, ValueError) as error:
            raise CalibrationError(f"{path}: {name}: {error}") from error
    return poses


def calibrate(views: Views, poses: Mapping[str, Pose], camera: CameraModel, carried: bool = False) -> HandEye:
    """Pose of a camera with known intrinsics; a view with an error far above the others' is left out.

    `poses`: picture's name -> pose in the base frame of the target, or, where it is `carried`, of the link it is
    fastened to.
    Raises CalibrationError where size, names or number are wrong, or the views do not fit or do not settle it.
    """
    if (views.width, views.height) != (camera.width, camera.height):
        raise CalibrationError(
            f"pictures are {views.width}x{views.height}, camera {camera.name} is {camera.width}x{camera.height}"
        )
    missing = [view.name for view in views.good if view.name not in poses]
    if missing:
        raise CalibrationError(
            f"{missing[0]}: no pose of this name ({len(missing)} of {len(views.good)} views)"
        )
    least = MIN_VIEWS_CARRIED if carried else MIN_VIEWS
    views.at_least(least)
    found = _solve(views, poses, camera, carried)
    outliers = outlying(views, found.view_errors)
    if outliers:
        views = views.without(outliers)
        views.at_least(least)
        found = _solve(views, poses, camera, carried)
    _require_good(found)
    return found


def _solve(views: Views, poses: Mapping[str, Pose], camera: CameraModel, carried: bool) -> HandEye:
    links = [poses[view.name] for view in views.good]
    seen = [_candidates(view, camera) for view in views.good]
    fit = _Fit(views.good, links, camera, carried)
    starts = (
        _start_of_carried(links, [both[0] for both in seen]) if carried else _starts_of_known(links, seen)
    )
    eye, mount = fit.run(*min(starts, key=lambda start: fit.cost(*start)))
    residuals = fit.residuals(eye, mount)
    alone = [link @ mount @ both[0].inverse() for link, both in zip(links, seen, strict=True)]
    errors = np.array([np.sqrt(np.mean(np.sum(r**2, axis=1))) for r in residuals])
    every = np.concatenate(residuals)
    error = float(np.sqrt(np.mean(np.sum(every**2, axis=1))))
    return HandEye(
        views,
        eye,
        mount,
        error,
        errors,
        residuals,
        fit.deviation(eye, mount),
        np.array([_difference(one, eye) for one in alone]),
    )


def _difference(a: Pose, b: Pose) -> tuple[float, float]:
    """[m], [degrees]"""
    turn = np.rad2deg(np.linalg.norm(log(a.rotation @ b.rotation.T)))
    return float(np.linalg.norm(a.position - b.position)), float(turn)


def _candidates(view: View, camera: CameraModel) -> list[Pose]:
    """Poses of the target in the camera's frame, best first: a flat one has two that look much the same."""
    centred = view.points - view.points.mean(axis=0)
    spread = np.linalg.svd(centred, compute_uv=False)
    flat = spread[2] < 1e-6 * spread[0]
    method = cv2.SOLVEPNP_IPPE if flat else cv2.SOLVEPNP_SQPNP
    _, turns, shifts, errors = cv2.solvePnPGeneric(
        view.points, view.pixels, camera.matrix, camera.distortion, flags=method
    )
    order = np.argsort(np.asarray(errors).ravel())
    found = []
    for i in order:
        turn, shift = cv2.solvePnPRefineLM(
            view.points, view.pixels, camera.matrix, camera.distortion, turns[i], shifts[i]
        )
        found.append(Pose(exp(np.asarray(turn).ravel()), np.asarray(shift).ravel()))
    return found


def _starts_of_known(links: list[Pose], seen: list[list[Pose]]) -> list[tuple[Pose, Pose]]:
    places = [link @ one.inverse() for link, both in zip(links, seen, strict=True) for one in both]
    step = max(1, len(places) // CANDIDATES)
    return [(place, STILL) for place in places[::step]]


def _start_of_carried(links: list[Pose], seen: list[Pose]) -> list[tuple[Pose, Pose]]:
    """OpenCV's function is for a camera on the link; with base and link exchanged it serves a fixed camera.

    camera_from_target @ X = Z @ base_from_link with X = target_from_link, Z = camera_from_base.
    """
    turns = np.array([log(link.rotation @ links[0].rotation.T) for link in links])
    second = float(np.rad2deg(np.linalg.svd(turns, compute_uv=False)[1] / np.sqrt(len(links))))
    if second < MIN_TURN:
        raise CalibrationError(
            f"turns of the link about a second axis are {second:.1f} degrees (root mean square), "
            f"must be at least {MIN_TURN:g}: turn it about two axes"
        )
    x_turn, x_shift, z_turn, z_shift = cv2.calibrateRobotWorldHandEye(
        [one.rotation for one in seen],
        [one.position for one in seen],
        [link.rotation for link in links],
        [link.position for link in links],
        method=cv2.CALIB_ROBOT_WORLD_HAND_EYE_SHAH,
    )
    target_from_link = Pose(np.asarray(x_turn), np.asarray(x_shift).ravel())
    camera_from_base = Pose(np.asarray(z_turn), np.asarray(z_shift).ravel())
    return [(camera_from_base.inverse(), target_from_link.inverse())]


class _Fit:
    """Least squares over the camera's pose and, where the target is carried, its fastening (Levenberg-Marquardt)."""

    def __init__(self, views: list[View], links: list[Pose], camera: CameraModel, carried: bool) -> None:
        self._views, self._links, self._camera = views, links, camera
        self._size = 12 if carried else 6

    def residuals(self, eye: Pose, mount: Pose) -> list[FloatArray]:
        """[pixels] (N, 2) of each view, seen minus projected."""
        found, back = [], eye.inverse()
        for view, link in zip(self._views, self._links, strict=True):
            target = back @ link @ mount
            projected, _ = cv2.projectPoints(
                view.points,
                log(target.rotation),
                target.position,
                self._camera.matrix,
                self._camera.distortion,
            )
            found.append(view.pixels - projected.reshape(-1, 2))
        return found

    def cost(self, eye: Pose, mount: Pose) -> float:
        """[pixels^2] sum."""
        return float(np.sum(self._flat(eye, mount) ** 2))

    def run(self, eye: Pose, mount: Pose) -> tuple[Pose, Pose]:
        """The poses with the least cost near these."""
        damping, cost = 1e-3, self.cost(eye, mount)
        for _ in range(ITERATIONS):
            jacobian, residual = self._jacobian(eye, mount), self._flat(eye, mount)
            information = jacobian.T @ jacobian
            damped = information + damping * np.diag(np.diag(information) + 1e-12)
            step: FloatArray = np.linalg.solve(damped, -jacobian.T @ residual).astype(np.float64)
            candidate = self._moved(eye, mount, step)
            new = self.cost(*candidate)
            if new > cost or not np.isfinite(new):
                damping *= 10
                continue
            (eye, mount), cost, damping = candidate, new, damping / 10
            if float(np.abs(step).max()) < 1e-9:
                break
        return eye, mount

    def deviation(self, eye: Pose, mount: Pose) -> tuple[float, float]:
        """[m], [degrees] of the camera: what the corners' own noise leaves open; inf where nothing settles it."""
        jacobian, residual = self._jacobian(eye, mount), self._flat(eye, mount)
        information = jacobian.T @ jacobian
        if np.linalg.cond(information) > 1e14:
            return np.inf, np.inf
        noise = float(np.sum(residual**2)) / max(1, len(residual) - self._size)
        spread = np.sqrt(noise * np.diag(np.linalg.inv(information)))
        return float(spread[:3].max()), float(np.rad2deg(spread[3:6].max()))

    def _flat(self, eye: Pose, mount: Pose) -> FloatArray:
        return np.concatenate(self.residuals(eye, mount)).ravel()

    def _moved(self, eye: Pose, mount: Pose, step: FloatArray) -> tuple[Pose, Pose]:
        return eye.moved(step[:6]), mount.moved(step[6:]) if self._size == 12 else mount

    def _jacobian(self, eye: Pose, mount: Pose) -> FloatArray:
        """(2N, 6 or 12) by central differences: exact enough, and the chain of frames stays in one place."""
        columns = []
        for i in range(self._size):
            step = np.zeros(self._size)
            step[i] = 1e-6
            ahead, behind = (self._flat(*self._moved(eye, mount, s)) for s in (step, -step))
            columns.append((ahead - behind) / 2e-6)
        return np.stack(columns, axis=1)


def _require_good(found: HandEye) -> None:
    if not found.error <= MAX_ERROR:
        raise CalibrationError(
            f"error is {found.error:.2f} pixels (root mean square), must be at most {MAX_ERROR:g}: "
            "poses and pictures do not belong together, or the target is another"
        )
    for value, bound, unit, what in zip(
        found.deviation, MAX_DEVIATION, ("m", "degrees"), ("place", "direction"), strict=True
    ):
        if not value <= bound:
            raise CalibrationError(
                f"the camera's {what} is uncertain by {value:.2g} {unit}, must be at most {bound:g}: "
                "more views, nearer and further apart"
            )
