"""When the keyboard lets go of the hand by itself."""

from __future__ import annotations

import pytest

from softflow_teleop.keyboard.hold import PAUSE, Hold
from softflow_teleop.takeover import Takeover


def held() -> Hold:
    """Taken at 10 s, of one node."""
    hold = Hold()
    hold.asks(10.0, servers=1)
    return hold


def test_a_keyboard_that_goes_on_keeps_the_hand() -> None:
    hold = held()
    assert hold.lost(10.0 + PAUSE - 0.01, servers=1) == ""
    hold.spoke(10.39)
    assert hold.lost(10.7, servers=1) == ""


def test_after_a_pause_it_lets_go_before_teleop_gives_the_hand_back() -> None:
    hold, takeover = held(), Takeover(silence=0.5, by_targets=True)
    takeover.take(10.0)
    pauses = [0.05 * i for i in range(1, 40)]
    given_back = [p for p in pauses if not takeover.look(10.0 + p)]
    lets_go = [p for p in pauses if hold.lost(10.0 + p, servers=1)]
    assert given_back and set(given_back) < set(lets_go)
    assert hold.lost(11.3, servers=1) == "the keyboard said nothing for 1.3 s"


@pytest.mark.parametrize(
    ("why", "servers", "text"),
    [
        ("fault: j1: hot", 1, "fault: j1: hot"),
        ("estop: a human", 0, "estop: a human"),
        ("", 0, "teleop is not there any more"),
        ("", 2, "teleop was started anew"),
    ],
)
def test_of_a_hand_that_is_down_and_of_another_teleop_it_lets_go_at_once(
    why: str, servers: int, text: str
) -> None:
    hold = held()
    hold.why = why
    assert hold.lost(10.0, servers) == text


def test_one_that_died_and_is_forgotten_only_later_is_not_missed() -> None:
    hold = Hold()
    hold.asks(10.0, servers=2)
    assert hold.lost(10.1, servers=2) == hold.lost(10.2, servers=1) == ""
    assert hold.lost(10.3, servers=2) == "teleop was started anew"
