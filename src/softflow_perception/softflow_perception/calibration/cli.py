"""`softflow camera`: a board to print, a camera's intrinsics, a camera's place. Plain Python."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from softflow_node.files import write_atomically
from softflow_perception.calibration import hand_eye, intrinsics
from softflow_perception.calibration.board import Board, load_board
from softflow_perception.calibration.views import (
    BoardTarget,
    CubeTarget,
    Views,
    views_of_images,
    views_of_video,
)
from softflow_perception.camera_model import CalibrationError, CameraModel, load_camera


def main(argv: Sequence[str]) -> int:
    """Entry point; returns 0, or 2 where a file or the views cannot be used: nothing is written then."""
    options = _parser().parse_args(argv)
    try:
        options.run(options)
    except (CalibrationError, OSError) as error:
        print(f"softflow camera: {error}", file=sys.stderr)
        return 2
    return 0


def make_board(options: argparse.Namespace) -> None:
    """Write the picture of a board, and its file beside it. Raises CalibrationError, OSError."""
    board = Board(
        options.columns,
        options.rows,
        options.square_mm / 1000,
        options.marker_mm / 1000,
        options.dictionary,
        options.legacy,
    )
    file = options.out.with_suffix(".yaml")
    write_atomically(options.out, board.png())
    board.save(file)
    print(f"{options.out}: {board.text}; print at 100 %, on something flat")
    print(f"{file}: the board for --board; measure a square on the print and correct `square` and `marker`")


def find_intrinsics(options: argparse.Namespace) -> None:
    """Calibrate from pictures, print and write. Raises CalibrationError, OSError."""
    old = load_camera(options.out) if options.out.exists() else None
    target = BoardTarget(load_board(options.board))
    if options.images:
        views = views_of_images(options.images, target)
    else:
        views = views_of_video(options.video, target)
    found = intrinsics.calibrate(views)
    _print_intrinsics(found)
    name = options.name or (old.name if old else options.out.stem)
    model = CameraModel(name, views.width, views.height, found.matrix, found.distortion)
    if old:
        model = dataclasses.replace(model, rotation=old.rotation, position=old.position)
        print(f"{options.out}: the camera's place is kept; measure it again with `camera hand-eye`")
    else:
        print(f"{options.out}: the camera's place is not known yet: measure it with `camera hand-eye`")
    title = f"{name}: intrinsics, {found.error:.3f} pixels"
    _write(options.out, model, "intrinsics", title, found)


def find_place(options: argparse.Namespace) -> None:
    """Where a camera stands: from pictures and poses, print and write. Raises CalibrationError, OSError."""
    camera = load_camera(options.camera)
    target = CubeTarget() if options.cube else BoardTarget(load_board(options.board))
    poses = hand_eye.load_poses(options.poses)
    views = views_of_images(options.images, target)
    found = hand_eye.calibrate(views, poses, camera, options.carried)
    texts = [
        f"{error:.3f}  {1000 * metres:.2f} mm, {degrees:.2f} degrees"
        for error, (metres, degrees) in zip(found.view_errors, found.disagreement, strict=True)
    ]
    _print_views(found.views, texts, "error [pixels], camera's pose of this view alone against all")
    model = dataclasses.replace(camera, rotation=found.camera.rotation, position=found.camera.position)
    content = model.to_dict()
    print(
        f"error {found.error:.3f} pixels (root mean square), place +- {1000 * found.deviation[0]:.2f} mm, "
        f"direction +- {found.deviation[1]:.3f} degrees"
    )
    print("position [m] " + " ".join(f"{value:.5f}" for value in content["position"]))
    print("quaternion xyzw " + " ".join(f"{value:.6f}" for value in content["quaternion"]))
    if options.carried:
        mount = " ".join(f"{value:.5f}" for value in found.mount.position)
        print(f"target's position in the link's frame [m] {mount}")
    title = f"{camera.name}: place, {found.error:.3f} pixels"
    _write(options.out or options.camera, model, "hand_eye", title, found)


def _print_intrinsics(found: intrinsics.Intrinsics) -> None:
    _print_views(found.views, [f"{error:.3f}" for error in found.view_errors], "error [pixels]")
    print(
        f"error {found.error:.3f} pixels (root mean square), coverage {100 * found.coverage:.0f} %, "
        f"tilt {found.tilt:.0f} degrees"
    )
    values = [found.matrix[i] for i in ((0, 0), (1, 1), (0, 2), (1, 2))]
    for name, value, deviation in zip(("fx", "fy", "cx", "cy"), values, found.deviation, strict=True):
        print(f"{name} {value:.2f} +- {deviation:.2f} pixels")
    print("distortion (k1 k2 p1 p2 k3) " + " ".join(f"{value:.4f}" for value in found.distortion))


def _print_views(views: Views, texts: list[str], head: str) -> None:
    width = max(len(name) for name in ("view", *views.unusable, *(view.name for view in views.good)))
    print(f"{'view':<{width}}  points  {head}")
    for view, text in zip(views.good, texts, strict=True):
        print(f"{view.name:<{width}}  {len(view.points):>6}  {text}")
    for name, why in views.unusable.items():
        print(f"{name:<{width}}  left out: {why}")


def _write(
    path: Path, model: CameraModel, what: str, title: str, found: intrinsics.Intrinsics | hand_eye.HandEye
) -> None:
    # matplotlib takes a second to load, and --help needs none.
    from softflow_perception.calibration.picture import residual_png

    picture = path.with_name(f"{path.stem}_{what}.png")
    write_atomically(picture, residual_png(title, found.views, found.residuals, found.view_errors))
    model.save(path)
    print(f"{path}: camera {model.name}\n{picture}: the residuals")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="softflow camera", description="Calibrate a camera from pictures.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_board(commands.add_parser("board", help="a ChArUco board to print, and its file"))
    _add_intrinsics(commands.add_parser("intrinsics", help="focal lengths, centre, distortion"))
    _add_place(commands.add_parser("hand-eye", help="where the camera stands in the hand's base frame"))
    return parser


def _add_board(parser: argparse.ArgumentParser) -> None:
    default = Board()
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PNG", help="the file goes beside it, as .yaml"
    )
    parser.add_argument(
        "--columns", type=int, default=default.columns, help="squares side by side (%(default)s)"
    )
    parser.add_argument("--rows", type=int, default=default.rows, help="(%(default)s)")
    parser.add_argument(
        "--square-mm", type=float, default=1000 * default.square, help="edge of a square (%(default)g)"
    )
    parser.add_argument(
        "--marker-mm", type=float, default=1000 * default.marker, help="edge of a tag (%(default)g)"
    )
    parser.add_argument("--dictionary", default=default.dictionary, help="of OpenCV (%(default)s)")
    parser.add_argument(
        "--legacy", action="store_true", help="pattern of OpenCV before 4.6, and of some makers"
    )
    parser.set_defaults(run=make_board)


def _add_intrinsics(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="DIR", help="pictures of the board, PNG or JPEG")
    source.add_argument("--video", type=Path, metavar="FILE", help="frames at different places are picked")
    parser.add_argument("--board", type=Path, required=True, metavar="FILE", help="of `camera board`")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="camera file; the place in an old one is kept"
    )
    parser.add_argument("--name", help="of the camera (the old file's, else the file's name)")
    parser.set_defaults(run=find_intrinsics)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--camera", type=Path, required=True, metavar="FILE", help="camera file of `camera intrinsics`"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="pictures of the target, PNG or JPEG"
    )
    parser.add_argument(
        "--poses",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML, picture's name: {position: [x, y, z] in m, quaternion: [x, y, z, w]}, of the target in the base",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--board", type=Path, metavar="FILE", help="of `camera board`")
    target.add_argument("--cube", action="store_true", help="the task's cube with its tags")
    parser.add_argument(
        "--carried",
        action="store_true",
        help="the poses are those of a link that the target is fastened to, somehow",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="camera file to write (--camera's own)")
    parser.set_defaults(run=find_place)
