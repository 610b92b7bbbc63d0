"""Where the camera stands, from rendered boards at known poses and from a board carried by a moving link."""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from softflow_perception.calibration import hand_eye
from softflow_perception.calibration.board import Board
from softflow_perception.calibration.cli import main
from softflow_perception.calibration.hand_eye import Pose, load_poses
from softflow_perception.calibration.views import BoardTarget
from softflow_perception.camera_model import CalibrationError, CameraModel, load_camera
from softflow_perception.rotations import exp, log, to_quaternion
from softflow_sim.cameras import SimulatedCamera, optics
from softflow_sim.cube_scene import CubeScene

sys.path.insert(0, str(Path(__file__).parent))
from rendered_board import TRUTH, all_sides, projected_views, render

BOARD = Board()
PLACE = Pose(TRUTH.rotation, TRUTH.position)
MOUNT = Pose(exp(np.array([0.4, -0.2, 1.1])), np.array([0.02, -0.01, 0.06]))
BLANK = CameraModel("front", TRUTH.width, TRUTH.height, TRUTH.matrix, TRUTH.distortion)


@cache
def pictures() -> list[tuple[NDArray[np.uint8], Pose]]:
    """Pictures, and the board's pose in the base frame."""
    seen = all_sides(BOARD)[1:10]
    return [(render(BOARD, pose, i), PLACE @ pose) for i, pose in enumerate(seen)]


def setup_files(tmp_path: Path, poses: list[Pose]) -> list[str]:
    """Pictures, poses, board and camera as files; the command."""
    images = tmp_path / "images"
    images.mkdir()
    content = {}
    for i, ((image, _), pose) in enumerate(zip(pictures(), poses, strict=True)):
        cv2.imwrite(str(images / f"view{i}.png"), image)
        content[f"view{i}.png"] = {
            "position": pose.position.tolist(),
            "quaternion": to_quaternion(pose.rotation).tolist(),
        }
    (tmp_path / "poses.yaml").write_text(yaml.safe_dump(content))
    BOARD.save(tmp_path / "board.yaml")
    BLANK.save(tmp_path / "camera.yaml")
    command = ["hand-eye", "--camera", str(tmp_path / "camera.yaml"), "--images", str(images)]
    return [*command, "--poses", str(tmp_path / "poses.yaml"), "--board", str(tmp_path / "board.yaml")]


def close(found: CameraModel | Pose, truth: Pose, metres: float = 0.002, degrees: float = 0.5) -> None:
    assert np.linalg.norm(found.position - truth.position) < metres
    assert np.rad2deg(np.linalg.norm(log(found.rotation @ truth.rotation.T))) < degrees


def test_boards_at_known_poses_give_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = setup_files(tmp_path, [pose for _, pose in pictures()])
    assert main(command) == 0
    found = load_camera(tmp_path / "camera.yaml")
    close(found, PLACE, 0.001, 0.2)
    np.testing.assert_array_equal(found.matrix, TRUTH.matrix)
    assert "place +-" in capsys.readouterr().out
    assert (tmp_path / "camera_hand_eye.png").stat().st_size > 10_000


def test_a_board_carried_by_a_link_gives_the_place_and_its_fastening(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = setup_files(tmp_path, [pose @ MOUNT.inverse() for _, pose in pictures()])
    out = tmp_path / "new.yaml"
    assert main([*command, "--carried", "--out", str(out)]) == 0
    close(load_camera(out), PLACE)
    np.testing.assert_array_equal(load_camera(tmp_path / "camera.yaml").position, np.zeros(3))
    assert "target's position in the link's frame" in capsys.readouterr().out


def test_both_steps_one_after_the_other(tmp_path: Path) -> None:
    """The place is as good with the intrinsics that the same board gave."""
    command = setup_files(tmp_path, [pose for _, pose in pictures()])
    file, board = tmp_path / "camera.yaml", str(tmp_path / "board.yaml")
    for i, pose in enumerate(all_sides(BOARD)):
        (tmp_path / "shots").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "shots" / f"{i:02}.png"), render(BOARD, pose, 100 + i))
    first = ["intrinsics", "--images", str(tmp_path / "shots"), "--board", board, "--out", str(file)]
    assert main(first) == 0 and main(command) == 0
    found = load_camera(file)
    assert found.matrix[0, 0] != TRUTH.matrix[0, 0]
    close(found, PLACE)


def test_the_fastening_is_right_too() -> None:
    seen = all_sides(BOARD)
    links = {f"{i}": PLACE @ pose @ MOUNT.inverse() for i, pose in enumerate(seen)}
    found = hand_eye.calibrate(projected_views(BOARD, seen), links, BLANK, carried=True)
    close(found.camera, PLACE)
    close(found.mount, MOUNT)


def test_the_deviation_is_that_of_the_errors() -> None:
    """Over draws of corner noise: what is announced is what happens, within the spread of so few draws."""
    seen = all_sides(BOARD)[:4]
    poses = {f"{i}": PLACE @ pose for i, pose in enumerate(seen)}
    found = [hand_eye.calibrate(projected_views(BOARD, seen, 0.5, seed), poses, BLANK) for seed in range(20)]
    errors = np.array([one.camera.position - PLACE.position for one in found])
    announced = np.mean([one.deviation[0] for one in found])
    assert 0.5 < np.sqrt(np.mean(errors**2, axis=0)).max() / announced < 1.6


def test_the_simulated_cube_gives_the_place_of_the_simulated_camera(tmp_path: Path) -> None:
    """The task's own cube, lying at known poses in the drawn scene."""
    scene, eye, ideal = (
        CubeScene(),
        SimulatedCamera("CubeRotation-v0", "front"),
        optics("CubeRotation-v0", "front"),
    )
    images, content = tmp_path / "images", {}
    images.mkdir()
    for seed in range(4):
        scene.reset(seed)
        cube = scene.objects()["cube"]
        image = eye.render(scene.hand().position, scene.objects())
        cv2.imwrite(str(images / f"{seed}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        content[f"{seed}.png"] = {
            "position": np.asarray(cube.position).tolist(),
            "quaternion": np.asarray(cube.quaternion).tolist(),
        }
    eye.close()
    (tmp_path / "poses.yaml").write_text(yaml.safe_dump(content))
    file = tmp_path / "camera.yaml"
    CameraModel("front", ideal.width, ideal.height, ideal.matrix).save(file)
    command = ["hand-eye", "--camera", str(file), "--images", str(images), "--cube"]
    assert main([*command, "--poses", str(tmp_path / "poses.yaml")]) == 0
    close(load_camera(file), Pose(ideal.rotation, ideal.position))


def test_a_pose_that_was_written_down_wrongly_is_left_out_and_named() -> None:
    seen = all_sides(BOARD)
    poses = {f"{i}": PLACE @ pose for i, pose in enumerate(seen)}
    poses["3"] = Pose(poses["3"].rotation, poses["3"].position + (0, 0.01, 0))
    found = hand_eye.calibrate(projected_views(BOARD, seen), poses, BLANK)
    assert list(found.views.unusable) == ["3"] and "error is" in found.views.unusable["3"]
    close(found.camera, PLACE)


def turning_about_one_axis() -> list[Pose]:
    start = all_sides(BOARD)[5]
    return [Pose(start.rotation @ exp(np.array([0, 0, 0.2 * i])), start.position) for i in range(8)]


def test_what_does_not_settle_the_place_is_refused() -> None:
    seen = all_sides(BOARD)
    poses = {f"{i}": PLACE @ pose for i, pose in enumerate(seen)}
    with pytest.raises(CalibrationError, match="2 usable views, must be at least 3"):
        hand_eye.calibrate(projected_views(BOARD, seen[:2]), poses, BLANK)
    with pytest.raises(CalibrationError, match="5 usable views, must be at least 6"):
        hand_eye.calibrate(projected_views(BOARD, seen[:5]), poses, BLANK, carried=True)
    with pytest.raises(CalibrationError, match=r"place is uncertain by .* m, must be at most 0\.002"):
        far = [Pose(pose.rotation, pose.position + (0, 0, 1.5)) for pose in seen[:3]]
        there = {f"{i}": PLACE @ pose for i, pose in enumerate(far)}
        hand_eye.calibrate(projected_views(BOARD, far, noise=0.8), there, BLANK)
    one_axis = turning_about_one_axis()
    links = {f"{i}": PLACE @ pose @ MOUNT.inverse() for i, pose in enumerate(one_axis)}
    with pytest.raises(CalibrationError, match=r"second axis are 0\.0 degrees .* at least 10"):
        hand_eye.calibrate(projected_views(BOARD, one_axis), links, BLANK, carried=True)


def test_poses_of_other_pictures_are_refused() -> None:
    seen = all_sides(BOARD)
    poses = {f"{i}": PLACE @ seen[(7 * i + 3) % 12] for i in range(12)}
    with pytest.raises(CalibrationError, match=r"error is .* pixels .* must be at most 2"):
        hand_eye.calibrate(projected_views(BOARD, seen), poses, BLANK)
    with pytest.raises(CalibrationError, match=r"0: no pose of this name \(12 of 12 views\)"):
        hand_eye.calibrate(projected_views(BOARD, seen), {}, BLANK)
    small = CameraModel("front", 320, 240, TRUTH.matrix)
    with pytest.raises(CalibrationError, match="pictures are 640x480, camera front is 320x240"):
        hand_eye.calibrate(projected_views(BOARD, seen), poses, small)


@pytest.mark.parametrize("carried", [False, True])
def test_a_board_printed_in_another_size_is_refused(carried: bool) -> None:
    """Intrinsics do not show it: a larger board further away looks the same."""
    seen = all_sides(BOARD)
    views = projected_views(BOARD, seen)
    larger = [dataclasses.replace(view, points=1.1 * view.points) for view in views.good]
    poses = {
        f"{i}": PLACE @ pose @ (MOUNT.inverse() if carried else hand_eye.STILL) for i, pose in enumerate(seen)
    }
    with pytest.raises(CalibrationError, match=r"error is .* pixels .* the target is another"):
        hand_eye.calibrate(dataclasses.replace(views, good=larger), poses, BLANK, carried)


def test_a_refusal_leaves_the_camera_file_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = setup_files(tmp_path, [Pose(pose.rotation.T, pose.position) for _, pose in pictures()])
    before = (tmp_path / "camera.yaml").read_bytes()
    assert main(command) == 2
    assert "error is" in capsys.readouterr().err
    assert (tmp_path / "camera.yaml").read_bytes() == before
    assert not (tmp_path / "camera_hand_eye.png").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "must be a mapping"),
        ("a.png: 3", "a.png: is 3, must have position and quaternion"),
        ("a.png: {position: [0, 0], quaternion: [0, 0, 0, 1]}", r"a.png: position is \[0, 0\]"),
        ("a.png: {position: [0, 0, .nan], quaternion: [0, 0, 0, 1]}", "a.png: position is"),
        ("a.png: {position: [0, 0, x], quaternion: [0, 0, 0, 1]}", "a.png: could not convert"),
        ("a.png: {position: [0, 0, 0], quaternion: [0, 0, 0, 2]}", "a.png: quaternion is .* length 1"),
    ],
)
def test_a_file_of_poses_that_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "poses.yaml"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=words):
        load_poses(path)


def test_the_board_is_found_where_it_is() -> None:
    """The target's own frame: points as OpenCV numbers them, so that poses in files mean what board.py says."""
    points, pixels = BoardTarget(BOARD).find(pictures()[4][0])
    pose = all_sides(BOARD)[5]
    expected, _ = cv2.projectPoints(points, log(pose.rotation), pose.position, TRUTH.matrix, TRUTH.distortion)
    assert np.abs(expected.reshape(-1, 2) - pixels).max() < 0.5
