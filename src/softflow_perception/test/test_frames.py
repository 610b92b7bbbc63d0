"""Pictures: colours stay what they are, and a camera that is not well is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from softflow_node.pictures import (
    FORMAT,
    FrameError,
    check_format,
    decode,
    decode_grey,
    encode_jpeg,
    encode_png,
    from_bgr,
    thumbnail,
)
from softflow_perception.camera.frames import BAD_AFTER, GOOD_AFTER, CameraHealth, FrameLimits, FrameWatch
from softflow_perception.camera.robot_clock import GAP, RobotClock
from softflow_perception.camera.sources import CaptureSource, SourceError
from softflow_perception.camera_model import CalibrationError, CameraModel, ColourMark, load_camera
from softflow_perception.rotations import exp

SECOND = 1_000_000_000


def golden(width: int = 64, height: int = 48) -> np.ndarray:
    """Red on the left, blue on the right, green below."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 220
    image[:, width // 2 :, 2] = 200
    image[height // 2 :, :, 1] = 120
    return image


def test_red_stays_red_through_the_file() -> None:
    image = golden()
    data = encode_jpeg(image, 95)
    np.testing.assert_allclose(decode(data)[5, 5], image[5, 5], atol=6)
    np.testing.assert_allclose(decode(data)[5, -5], image[5, -5], atol=6)
    np.testing.assert_allclose(decode(data)[-5, 5], image[-5, 5], atol=6)
    brightness = 0.299 * 220
    assert abs(int(decode_grey(data)[5, 5]) - brightness) < 6


def test_a_picture_is_the_same_however_it_lies_in_memory() -> None:
    """As OpenCV captures it, blue first and seen backwards, or as a renderer makes it."""
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    captured = image[..., ::-1].copy()
    seen = from_bgr(captured)
    assert np.shares_memory(seen, captured) and np.array_equal(seen, image)
    assert encode_jpeg(seen, 90) == encode_jpeg(image, 90)
    assert encode_png(seen) == encode_png(image) and np.array_equal(decode(encode_png(image)), image)
    data = memoryview(encode_jpeg(image, 90))
    assert np.array_equal(decode(data), decode(bytes(data)))
    for size in (16, 48):
        square = image[:, :48]
        small = thumbnail(from_bgr(square[..., ::-1].copy()), size)
        assert np.array_equal(small, thumbnail(square, size)) and small.flags.c_contiguous
        assert np.array_equal(small, cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA))


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(FrameError, match="0 bytes"):
        decode(b"")
    with pytest.raises(FrameError, match="5 bytes are not"):
        decode(b"hello")
    with pytest.raises(FrameError, match=r"\(4, 4\)"):
        encode_jpeg(np.zeros((4, 4), np.uint8), 90)
    check_format(FORMAT)
    for text in ("", "yuv422; jpeg compressed", "rgb8; h264"):
        with pytest.raises(FrameError, match="format is"):
            check_format(text)


def at(now: int) -> tuple[int, int]:
    """A robot's clock that has just been heard."""
    return now, now


def watch() -> FrameWatch:
    made = FrameWatch(FrameLimits(64, 48, frozen_after=3))
    assert made.picture(SECOND, at(SECOND), (64, 48), b"first") == ""
    return made


def test_a_camera_that_is_not_well_is_named() -> None:
    assert "no picture yet" in FrameWatch(FrameLimits(64, 48)).fault
    assert "32x48" in watch().picture(2 * SECOND, at(2 * SECOND), (32, 48), b"x")
    assert "must be above" in watch().picture(SECOND, at(SECOND), (64, 48), b"x")
    assert "+0.300 s off" in watch().picture(2 * SECOND, at(2 * SECOND - 3 * SECOND // 10), (64, 48), b"x")
    silent = watch()
    assert silent.check(SECOND + SECOND // 4) == ""
    assert "no picture for 2.00 s" in silent.check(3 * SECOND)
    assert silent.picture(3 * SECOND + 1, at(3 * SECOND + 1), (64, 48), b"back") == ""


def test_a_robots_clock_that_is_late_makes_no_camera_bad() -> None:
    """A hand driver that gets no processor for a moment says nothing; cameras go on with the host's clock."""
    clock = RobotClock()
    assert clock.span(6.0) is None
    clock.hear(SECOND, 7.0)
    span = clock.span(7.0 + 0.3)
    assert span == (SECOND, SECOND + 300_000_000)
    assert watch().picture(SECOND + 300_000_000, span, (64, 48), b"x") == "", (
        "as the camera's reader stamps it"
    )
    assert watch().picture(SECOND + 1, span, (64, 48), b"x") == "", "a world that is late, too"
    assert "+0.250 s off" in watch().picture(SECOND + 550_000_000, span, (64, 48), b"x")
    assert "-0.300 s off" in watch().picture(SECOND + 1, (SECOND + 300_000_001,) * 2, (64, 48), b"x")
    assert clock.span(9.0) == (SECOND, SECOND + round(1e9 * GAP)), "not for long"
    assert clock.span(6.9) == (SECOND, SECOND), "heard later than that"


def test_silence_is_measured_on_the_robots_clock() -> None:
    made = FrameWatch(FrameLimits(64, 48))
    assert [made.check(t * SECOND) for t in (3, 3, 8)] == ["", "", ""], (
        "a clock that stands still misses nothing"
    )
    assert "no picture for 5.50 s, limit 5.0 s" in made.check(8 * SECOND + SECOND // 2)
    assert made.picture(9 * SECOND, at(9 * SECOND), (64, 48), b"first") == ""
    assert made.check(0) == "", "a clock that begins anew"
    assert made.picture(1, at(1), (64, 48), b"second") == ""
    assert made.repeats(1) and not made.repeats(2)


def test_a_camera_is_down_when_a_fault_lasts_and_well_when_good_pictures_do() -> None:
    health = CameraHealth()
    assert [health.bad("size") for _ in range(BAD_AFTER + 1)] == [*[False] * (BAD_AFTER - 1), True, False]
    assert (health.why, health.faults) == ("size", 1)
    assert [health.good() for _ in range(GOOD_AFTER)] == [*[False] * (GOOD_AFTER - 1), True]
    assert health.why == "" and not health.good()
    assert health.bad("frozen", certain=True) and health.why == "frozen"
    for _ in range(GOOD_AFTER - 1):
        health.good()
    assert not health.bad("size") and not health.good() and health.why == "frozen", (
        "counted from the last bad one"
    )
    other = CameraHealth()
    for _ in range(3 * BAD_AFTER):
        assert not other.bad("once"), "single bad pictures among good ones"
        other.good()


def test_the_robots_clock_goes_on_between_its_words() -> None:
    clock = RobotClock()
    assert clock.at(7.0) is None
    clock.hear(2 * SECOND, 7.0)
    assert clock.at(7.25) == 2 * SECOND + SECOND // 4
    assert clock.at(7.0) == 2 * SECOND + SECOND // 4 + 1, "stamps never go back"
    clock.hear(4 * SECOND, 9.0)
    assert clock.at(8.6) == 4 * SECOND - 400_000_000, "a picture that was long on its way"
    assert clock.at(9.0 + 2 * GAP) is None, "the world stands still"
    clock.hear(SECOND, 11.0)
    assert clock.at(11.0) == SECOND, "a robot that was started again"


def test_red_and_blue_that_are_swapped_show_at_the_mark() -> None:
    red = ColourMark(10, 10, (220, 20, 30))
    assert red.fault(golden()) == ""
    assert "red - blue is -220, must be above -30 (+190 in" in red.fault(golden()[..., ::-1])
    blue = ColourMark(60, 2, (10, 20, 200))
    assert blue.fault(golden()) == ""
    assert "red - blue is +200, must be below +30 (-190 in" in blue.fault(golden()[..., ::-1])
    assert red.fault(np.zeros((48, 64, 3), np.uint8)) == "", "in the dark nobody knows"


def test_equal_pictures_in_a_row_are_a_camera_that_hangs() -> None:
    made, faults = watch(), []
    for i in range(2, 7):
        faults.append(made.picture(i * SECOND, at(i * SECOND), (64, 48), b"same"))
    assert [bool(f) for f in faults] == [False, False, False, True, True]
    assert "4 equal pictures" in faults[3]
    assert made.picture(8 * SECOND, at(8 * SECOND), (64, 48), b"other") == ""


def test_a_recorded_video_stands_in_for_a_device(tmp_path: Path) -> None:
    file = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (64, 48))
    for _ in range(5):
        writer.write(golden()[..., ::-1])
    writer.release()
    source = CaptureSource(str(file), 64, 48, 30.0)
    images = [source.read() for _ in range(5)]
    np.testing.assert_allclose(images[-1][5, 5], golden()[5, 5], atol=10)
    with pytest.raises(SourceError, match="gave no picture: its end"):
        source.read()
    source.close()
    with pytest.raises(SourceError, match="gives 64x48, asked for 640x480"):
        CaptureSource(str(file), 640, 480, 30.0)
    with pytest.raises(SourceError, match="cannot be opened"):
        CaptureSource("/dev/video99", 64, 48, 30.0)


def camera() -> CameraModel:
    matrix = np.array([[500.0, 0, 31.5], [0, 501.0, 23.5], [0, 0, 1]])
    rotation = exp(np.array([0.1, -2.0, 0.4]))
    return CameraModel(
        "front", 64, 48, matrix, np.array([0.1, -0.2, 0, 0, 0.01]), rotation, np.array([0.2, 0, 0.3])
    )


def test_a_camera_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    marked = dataclasses.replace(camera(), mark=ColourMark(3, 4, (200, 10, 20)))
    marked.save(path)
    assert load_camera(path).mark == marked.mark and marked.hash != camera().hash
    camera().save(path)
    back = load_camera(path)
    np.testing.assert_allclose(back.rotation, camera().rotation, atol=1e-12)
    np.testing.assert_array_equal(back.matrix, camera().matrix)
    assert (back.name, back.width, back.height) == ("front", 64, 48)
    back.save(path)
    assert load_camera(path).hash == back.hash != CameraModel("front", 64, 48, camera().matrix).hash


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "must be a mapping"),
        ("name: [", "not YAML"),
        ("name: front", "width is missing"),
        ("width: 64", "name is missing"),
    ],
)
def test_a_camera_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=words):
        load_camera(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("width: 0", "width is 0 pixels"),
        ("matrix: [1, 2]", "cannot reshape"),
        ("matrix: [-1, 0, 0, 0, 1, 0, 0, 0, 1]", "focal lengths are -1"),
        ("distortion: [.nan, 0, 0, 0, 0]", "distortion is"),
        ("quaternion: [0, 0, 0, 0]", "quaternion is"),
        ("colour: red", "unknown key 'colour'"),
        ("mark: red", "mark is 'red', must be a mapping"),
        ("mark: {u: 64, v: 0, rgb: [200, 0, 0]}", r"mark.u is 64, must be in \[0, 63\]"),
        ("mark: {u: 6, v: 0, rgb: [200, 0]}", "must be 3 values"),
        ("mark: {u: 6, v: 0, rgb: [200, 0, 180]}", "red and blue must differ by at least 60"),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "camera.yaml"
    camera().save(path)
    name = change.split(":")[0]
    kept = "".join(f"{k}: {v}\n" for k, v in camera().to_dict().items() if k != name)
    path.write_text(kept + change)
    with pytest.raises(CalibrationError, match=words):
        load_camera(path)
