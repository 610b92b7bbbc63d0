"""Intrinsics from rendered boards: the camera comes back, and what cannot be used is named with value and bound."""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from softflow_perception.calibration import intrinsics
from softflow_perception.calibration.board import Board, load_board
from softflow_perception.calibration.cli import main
from softflow_perception.calibration.hand_eye import Pose
from softflow_perception.calibration.views import BoardTarget, UnusableError, edge_width
from softflow_perception.camera_model import CalibrationError, CameraModel, load_camera

sys.path.insert(0, str(Path(__file__).parent))
from rendered_board import TRUTH, all_sides, facing, projected_views, render

BOARD = Board()


@cache
def pictures() -> list[NDArray[np.uint8]]:
    return [render(BOARD, pose, i) for i, pose in enumerate(all_sides(BOARD))]


def files(directory: Path, images: list[NDArray[np.uint8]]) -> Path:
    directory.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(directory / f"view{i:02}.png"), image)
    return directory


def run(tmp_path: Path, images: list[NDArray[np.uint8]], board: Board = BOARD, *more: str) -> int:
    board.save(tmp_path / "board.yaml")
    directory = str(files(tmp_path / "images", images))
    command = ["intrinsics", "--images", directory, "--board", str(tmp_path / "board.yaml")]
    return main([*command, "--out", str(tmp_path / "camera.yaml"), *more])


def close_to_truth(found: CameraModel) -> None:
    for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)):
        assert found.matrix[i, j] == pytest.approx(TRUTH.matrix[i, j], rel=0.01)
    # Distortion by what it does: pixels at the picture's edges. Single coefficients trade off against each other.
    points = np.array([[x, y, 1.0] for x in (-0.48, 0.0, 0.48) for y in (-0.36, 0.0, 0.36)])
    seen, true = (
        cv2.projectPoints(points, np.zeros(3), np.zeros(3), c.matrix, c.distortion)[0] for c in (found, TRUTH)
    )
    assert np.abs(seen - true).max() < 2.0


def test_the_camera_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, pictures(), BOARD, "--name", "front") == 0
    found = load_camera(tmp_path / "camera.yaml")
    assert (found.name, found.width, found.height) == ("front", 640, 480)
    close_to_truth(found)
    output = capsys.readouterr().out
    assert "coverage" in output and "view11.png" in output and "place is not known" in output
    with Image.open(tmp_path / "camera_intrinsics.png") as picture:
        assert picture.size[0] > 1000
    assert not list(tmp_path.glob("*.tmp"))


def test_a_new_calibration_keeps_the_place_and_the_name(tmp_path: Path) -> None:
    TRUTH.save(tmp_path / "camera.yaml")
    assert run(tmp_path, pictures()) == 0
    found = load_camera(tmp_path / "camera.yaml")
    assert found.name == "front"
    np.testing.assert_allclose(found.position, TRUTH.position)
    np.testing.assert_allclose(found.rotation, TRUTH.rotation, atol=1e-12)
    assert not np.array_equal(found.matrix, TRUTH.matrix)


def test_a_video_gives_each_place_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BOARD.save(tmp_path / "board.yaml")
    path = tmp_path / "film.avi"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (640, 480))
    for image in [np.full((480, 640), 90, np.uint8), *pictures()]:
        for _ in range(3):
            film.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    film.release()
    out = tmp_path / "camera.yaml"
    command = ["intrinsics", "--video", str(path), "--board", str(tmp_path / "board.yaml"), "--out", str(out)]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert output.count("\nframe ") == len(pictures()) + 1 and "frame 0 and 2 more  left out: blank" in output
    close_to_truth(load_camera(out))


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], images: list[NDArray[np.uint8]]) -> str:
    """The error; a camera file that was there stays as it was."""
    TRUTH.save(tmp_path / "camera.yaml")
    before = (tmp_path / "camera.yaml").read_bytes()
    assert run(tmp_path, images) == 2
    assert (tmp_path / "camera.yaml").read_bytes() == before
    assert not (tmp_path / "camera_intrinsics.png").exists()
    return capsys.readouterr().err


def test_too_few_views_are_refused_with_the_cause_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(tmp_path, capsys, [*pictures()[:6], np.full((480, 640), 90, np.uint8)])
    assert "6 usable views, must be at least 8" in error and "view06.png: blank" in error


def test_views_in_one_corner_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poses = [facing(BOARD, -0.05, -0.03, 0.5, (0.1 * (i % 5), 0.1 * (i % 3), 0)) for i in range(9)]
    error = refused(tmp_path, capsys, [render(BOARD, pose) for pose in poses])
    assert "coverage is" in error and "must be at least 50 %" in error


def test_parallel_boards_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [(x, y) for x in (-0.1, 0.0, 0.1) for y in (-0.07, 0.0, 0.07)]
    images = [render(BOARD, facing(BOARD, x, y, 0.36, (0, 0, 0))) for x, y in places]
    error = refused(tmp_path, capsys, images)
    assert "tilt is" in error and "must be at least 20" in error


def test_a_broken_camera_file_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "camera.yaml").write_text("name: front\n")
    assert run(tmp_path, pictures()) == 2
    assert "camera.yaml: width is missing" in capsys.readouterr().err
    assert (tmp_path / "camera.yaml").read_text() == "name: front\n"


def test_legacy_boards_are_read_as_such() -> None:
    """Their pattern differs where the rows are even; the wrong choice must say so, not give wrong points."""
    old = Board(rows=6, legacy=True)
    image = render(old, facing(old, 0, 0, 0.4, (0.2, 0.1, 0)))
    assert len(BoardTarget(old).find(image)[0]) == 6 * 5
    with pytest.raises(UnusableError, match="not arranged"):
        BoardTarget(Board(rows=6)).find(image)


def test_corners_on_one_line_are_no_view() -> None:
    long = Board(columns=12, rows=3, square=0.02, marker=0.015)
    image = render(long, facing(long, 0, 0, 0.4, (0.1, 0, 0)))
    points, pixels = BoardTarget(long).find(image)
    assert len(points) >= 16
    lower = pixels[points[:, 1] > 0.03]
    image[int(lower[:, 1].min()) - 1 :] = 120
    with pytest.raises(UnusableError, match="corners seen lie on one line"):
        BoardTarget(long).find(image)


def test_small_boards_far_away_are_refused() -> None:
    """Tilted, all over the picture, and still too noisy for a focal length."""
    poses = [Pose(pose.rotation, 2.5 * pose.position) for pose in all_sides(BOARD)]
    with pytest.raises(CalibrationError, match=r"focal length is uncertain by .* %, must be at most 1 %"):
        intrinsics.calibrate(projected_views(BOARD, poses, noise=0.6))


def test_a_board_that_is_not_even_is_refused_by_its_error() -> None:
    views = projected_views(BOARD, all_sides(BOARD))
    uneven = [
        dataclasses.replace(view, points=view.points + 0.002 * np.sin(90 * view.points))
        for view in views.good
    ]
    with pytest.raises(CalibrationError, match=r"error is .* pixels \(root mean square\), must be at most 1"):
        intrinsics.calibrate(dataclasses.replace(views, good=uneven))


def test_pictures_of_two_sizes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(tmp_path, capsys, [*pictures(), np.zeros((240, 320), np.uint8)])
    assert "view12.png: is 320x240 pixels, those before it are 640x480" in error


def test_an_outlier_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A board that was bent while one picture was taken."""
    rows = np.arange(480, dtype=np.float32)[:, None] + np.zeros((1, 640), np.float32)
    columns = np.arange(640, dtype=np.float32)[None] + 8 * np.sin(rows / 60)
    bent = cv2.remap(pictures()[5], columns, rows, cv2.INTER_LINEAR, borderValue=120)
    assert run(tmp_path, [*pictures(), bent]) == 0
    assert "view12.png  left out: error is" in capsys.readouterr().out
    close_to_truth(load_camera(tmp_path / "camera.yaml"))


MIDDLE = facing(BOARD, 0, 0, 0.4, (0.2, 0.1, 0))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((480, 640), 90, np.uint8), "blank: .* 0 grey levels, must be at least 20"),
        (render(BOARD, MIDDLE, blur=9.0), "blurred: .* pixels wide, must be at most 2"),
        (render(BOARD, MIDDLE, blur=2.6), "blurred: .* pixels wide, must be at most 2"),
        (render(BOARD, MIDDLE, smear=9), "blurred: .* pixels wide, must be at most 2"),
        (render(Board(dictionary="DICT_4X4_50"), MIDDLE), "wrong board: shows tags of DICT_4X4_1000"),
        (render(Board(columns=9, rows=7), MIDDLE), "wrong board: shows tag 3[01], the board .* ends at 16"),
        (render(Board(columns=5, rows=7), MIDDLE), "wrong board: its 17 tags are not arranged"),
        (
            render(BOARD, facing(BOARD, 0.24, 0, 0.4, (0, 0, 0))),
            "corners of the board seen, must be at least 8",
        ),
    ],
    ids=["blank", "blur", "weak-blur", "smear", "dictionary", "larger", "turned", "out-of-sight"],
)
def test_a_picture_that_cannot_be_used_says_why(image: NDArray[np.uint8], words: str) -> None:
    with pytest.raises(UnusableError, match=words):
        BoardTarget(BOARD).find(image)


@pytest.mark.parametrize("blur", [1.0, 2.0, 3.0])
def test_the_width_of_an_edge_is_measured(blur: float) -> None:
    corner = np.full((64, 64), 20.0)
    corner[:32, :32] = corner[32:, 32:] = 220.0
    blurred = cv2.GaussianBlur(corner, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    assert edge_width(blurred.astype(np.uint8)) == pytest.approx(blur, abs=0.25)


def test_a_board_is_printed_in_its_size_and_comes_back_from_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "board.png"
    assert main(["board", "--out", str(out), "--columns", "6", "--square-mm", "24", "--marker-mm", "17"]) == 0
    assert "6 x 5 squares of 24 mm, tags of 17 mm, DICT_5X5_100" in capsys.readouterr().out
    board = load_board(tmp_path / "board.yaml")
    assert board == Board(6, 5, 0.024, 0.017)
    with Image.open(out) as image:
        per_inch, page = image.info["dpi"][0], np.asarray(image)
    corners, numbers, *_ = cv2.aruco.CharucoDetector(board.opencv()).detectBoard(page)
    assert len(numbers) == 5 * 4
    first, last = corners.reshape(-1, 2)[[0, 4]]
    assert np.linalg.norm(last - first) / per_inch * 25.4 == pytest.approx(4 * 24, rel=0.002)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("columns: 2", "columns is 2, must be a whole number in"),
        ("marker: 0.03", r"marker is 0.03 m, must be in \[0.009, 0.0285\]"),
        ("square: .nan", "square is nan m"),
        ("dictionary: DICT_5", "dictionary is 'DICT_5', not one"),
        ("dictionary: 5", "dictionary is 5, not one"),
        ("rows: 40", "need 140 tags, DICT_5X5_100 has 100"),
        ("legacy: 1", "legacy is 1, must be true or false"),
        ("colour: red", "unknown key 'colour'"),
    ],
)
def test_a_board_file_that_is_wrong_is_named(tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "board.yaml"
    BOARD.save(path)
    path.write_text(path.read_text() + change + "\n")
    with pytest.raises(CalibrationError, match=words):
        load_board(path)
