"""Pose of the tagged cube: exact from exact corners, and close on rendered frames with fingers in front."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from softflow_perception.camera_model import CameraModel
from softflow_perception.fiducial import Corners, TagDetector, estimate
from softflow_perception.rotations import FloatArray, exp, from_quaternion, log
from softflow_perception.tracking import PoseFilter
from softflow_sim.cameras import SimulatedCamera, optics
from softflow_sim.cube_scene import CubeScene
from softflow_sim.teacher import CubeTeacher
from softflow_tasks.cube_rotation import REST_HEIGHT
from softflow_tasks.cube_tags import DICTIONARY, tag_corners

MODEL = tag_corners()
POSITION = np.array([0.004, -0.003, REST_HEIGHT + 0.002])


def camera(name: str = "front", distortion: tuple[float, ...] = (0, 0, 0, 0, 0)) -> CameraModel:
    ideal = optics("CubeRotation-v0", name)
    return CameraModel(
        name, ideal.width, ideal.height, ideal.matrix, np.array(distortion), ideal.rotation, ideal.position
    )


def project(model: CameraModel, rotation: FloatArray, position: FloatArray) -> Corners:
    """Tags whose face looks at the camera, at their exact places."""
    seen: Corners = {}
    for number, corners in MODEL.items():
        points = corners @ rotation.T + position
        normal = np.cross(points[1] - points[0], points[0] - points[3])
        if normal @ (model.position - points[0]) < 0.2 * np.linalg.norm(normal) * 0.3:
            continue
        local = (points - model.position) @ model.rotation
        pixels, _ = cv2.projectPoints(local, np.zeros(3), np.zeros(3), model.matrix, model.distortion)
        seen[number] = pixels.reshape(4, 2)
    return seen


@pytest.mark.parametrize("yaw", np.linspace(-3.0, 3.0, 13))
@pytest.mark.parametrize("distortion", [(0, 0, 0, 0, 0), (-0.2, 0.05, 0.001, -0.002, 0.01)])
def test_exact_corners_give_the_exact_pose(yaw: float, distortion: tuple[float, ...]) -> None:
    one = camera(distortion=distortion)
    rotation = exp(np.array([0.1, -0.05, 0.0])) @ exp(np.array([0, 0, yaw]))
    found = estimate([(one, project(one, rotation, POSITION))], MODEL)
    assert found is not None and found.error < 1e-2
    np.testing.assert_allclose(found.position, POSITION, atol=1e-5)
    assert np.linalg.norm(log(found.rotation @ rotation.T)) < 1e-3


def test_the_covariance_is_that_of_the_errors() -> None:
    """Over many draws of corner noise, squared errors weighed by the covariance average to 6, their number."""
    one, rng, rotation = camera(), np.random.default_rng(0), exp(np.array([0, 0, 0.3]))
    exact, distances = project(one, rotation, POSITION), []
    for _ in range(200):
        noisy = {n: quad + rng.normal(0, 0.5, (4, 2)) for n, quad in exact.items()}
        found = estimate([(one, noisy)], MODEL)
        assert found is not None
        error = np.concatenate([found.position - POSITION, log(found.rotation @ rotation.T)])
        distances.append(error @ np.linalg.solve(found.covariance, error))
    assert 4.5 < np.mean(distances) < 8.0


def test_a_second_camera_makes_the_pose_more_certain() -> None:
    rotation = exp(np.array([0, 0, 0.3]))
    views = [(c, project(c, rotation, POSITION)) for c in (camera("front"), camera("right"))]
    alone, both = estimate(views[:1], MODEL), estimate(views, MODEL)
    assert alone is not None and both is not None
    assert np.trace(both.covariance[:3, :3]) < 0.5 * np.trace(alone.covariance[:3, :3])


def test_a_tag_that_was_read_wrongly_is_left_out() -> None:
    one, rotation = camera(), exp(np.array([0, 0, 0.2]))
    seen = project(one, rotation, POSITION)
    number = next(iter(seen))
    seen[number] = seen[number] + (25.0, -10.0)
    found = estimate([(one, seen)], MODEL)
    assert found is not None and found.tags == len(seen) - 1
    np.testing.assert_allclose(found.position, POSITION, atol=1e-5)


def test_a_prior_decides_between_the_two_poses_of_a_single_tag() -> None:
    """A small square far away can be turned either way; the fit must follow the body, not jump."""
    one, rng = camera(), np.random.default_rng(1)
    rotation = exp(np.array([0, 0, 0.75]))
    seen = project(one, rotation, POSITION)
    number = max(seen, key=lambda n: cv2.contourArea(seen[n].astype(np.float32)))
    before = estimate([(one, seen)], MODEL)
    for _ in range(50):
        noisy = {number: seen[number] + rng.normal(0, 0.3, (4, 2))}
        found = estimate([(one, noisy)], MODEL, before)
        assert found is not None
        assert np.linalg.norm(log(found.rotation @ rotation.T)) < 0.5


def test_nothing_seen_is_no_pose() -> None:
    assert estimate([(camera(), {})], MODEL) is None
    assert estimate([(camera(), {99: np.ones((4, 2))})], MODEL) is None
    assert TagDetector(DICTIONARY).detect(np.full((480, 640), 128, np.uint8)) == {}
    with pytest.raises(ValueError, match="'DICT_5'"):
        TagDetector("DICT_5")


def test_rendered_frames_with_fingers_in_front_give_the_pose() -> None:
    """A teacher's episode, every fifth frame: median within 2 degrees and 2 mm, and hardly a frame without a pose."""
    scene, teacher = CubeScene(), CubeTeacher(1, noise=0.02)
    eye = SimulatedCamera("CubeRotation-v0", "front")
    detector, tracker = TagDetector(DICTIONARY), PoseFilter()
    metres, degrees, frames, without = [], [], 0, 0
    scene.reset(1)
    for step in range(200):
        teacher.observe(scene.task.observe(scene.hand(), scene.objects()))
        scene.advance(teacher())
        if step % 5:
            continue
        image = eye.render(scene.hand().position, scene.objects())
        assert image.shape == (480, 640, 3) and image.dtype == np.uint8
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        stamp, truth = step * 50_000_000, scene.objects()["cube"]
        found = estimate([(camera(), detector.detect(grey))], MODEL, tracker.prior(stamp))
        tracked = tracker.update(stamp, found)
        frames, without = frames + 1, without + (found is None)
        assert tracked is not None
        metres.append(np.linalg.norm(tracked.position - truth.position))
        degrees.append(
            np.rad2deg(np.linalg.norm(log(tracked.rotation @ from_quaternion(truth.quaternion).T)))
        )
    eye.close()
    assert np.median(metres) < 0.002 and np.median(degrees) < 2.0
    assert without <= 0.05 * frames
