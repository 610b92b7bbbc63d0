"""Cameras are watched for policies that see: what lasts takes one down, what a world in a hurry does not."""

from __future__ import annotations

import pytest

from softflow_node.pictures import FORMAT
from softflow_perception.camera.onlooker import SILENCE, Onlooker

STEP = 50_000_000


class Play:
    """Pictures of one camera, each step another; [s] of the host's time."""

    def __init__(self) -> None:
        self.onlooker, self.stamp, self.now = Onlooker(["front"]), 0, 100.0

    def show(self, count: int, data: bytes = b"", text: str = FORMAT, pause: float = 0.05) -> list[str]:
        said = []
        for _ in range(count):
            self.stamp, self.now = self.stamp + STEP, self.now + pause
            self.onlooker.look(self.stamp, self.now)
            own = data or b"%d" % self.stamp
            said.append(self.onlooker.picture("front", self.stamp, text, own, self.now))
        return said

    def miss(self, count: int, pause: float = 0.05) -> None:
        for _ in range(count):
            self.stamp, self.now = self.stamp + STEP, self.now + pause
            self.onlooker.look(self.stamp, self.now)

    @property
    def why(self) -> str:
        return self.onlooker.why()["front"]


def test_good_pictures_are_used_and_repeated_ones_are_no_fault() -> None:
    play = Play()
    assert play.show(30) == [""] * 30
    for _ in range(30):
        assert play.onlooker.picture("front", play.stamp, FORMAT, b"same", play.now) == ""
    assert play.why == ""


@pytest.mark.parametrize(
    ("bad", "count", "why"),
    [
        ({"data": b"same"}, 11, "11 equal pictures in a row"),
        ({"text": "h264"}, 3, "format is 'h264', must be"),
    ],
)
def test_what_lasts_takes_a_camera_down_until_ten_good_pictures(
    bad: dict[str, str], count: int, why: str
) -> None:
    play = Play()
    play.show(5)
    said = play.show(count - 1, **bad)
    assert play.why == ""
    said += play.show(1, **bad)
    assert why in said[-1] and why in play.why
    play.show(9)
    assert why in play.why
    play.show(1)
    assert play.why == ""


def test_silence_is_known_when_both_clocks_say_so() -> None:
    play = Play()
    play.show(5)
    play.miss(10)
    assert play.why == ""
    play.miss(round(SILENCE / 0.05) - 9)
    assert play.why.startswith("no picture for ") and play.why.endswith("limit 0.5 s")
    play.show(10)
    assert play.why == ""
    play.miss(100, pause=0.005)  # a world in a hurry
    assert play.why == ""
    play.show(1)
    for _ in range(100):  # one that waits
        play.now += 1.0
        play.onlooker.look(play.stamp, play.now)
    assert play.why == ""


def test_a_camera_that_never_comes_is_down_after_a_while() -> None:
    play = Play()
    play.miss(90)
    assert play.why == ""
    play.miss(20)
    assert "limit 5.0 s" in play.why


def test_what_the_cameras_node_says_comes_first() -> None:
    play = Play()
    play.show(1)
    play.onlooker.own("front", "device: unplugged?")
    play.miss(50)
    assert play.why == "device: unplugged?"
    play.onlooker.own("front", "")
    assert play.why.startswith("no picture for")
