"""When a hand may be used, what is said while it may not, and growing pauses between attempts."""

from __future__ import annotations

import pytest
from softflow_msgs.msg import HandHealth

from softflow_tasks import hand_watch
from softflow_tasks.hand_watch import REMINDER, HandWatch, Retry, why_not


def test_modes_are_those_of_the_message() -> None:
    for name in ("INACTIVE", "HOLD", "ACTIVE", "ESTOP", "RELAX"):
        assert getattr(hand_watch, name) == getattr(HandHealth, f"MODE_{name}")


@pytest.mark.parametrize(
    ("mode", "reason", "faults", "why"),
    [
        (hand_watch.ACTIVE, "started", (), ""),
        (hand_watch.RELAX, "nothing to follow", (), ""),
        (hand_watch.INACTIVE, "", (), "inactive: no reason given"),
        (hand_watch.HOLD, "recorder: disk full", (), "hold: recorder: disk full"),
        (hand_watch.ESTOP, "a person", (), "estop: a person"),
        (hand_watch.ESTOP, "estop: a person", ("too hot",), "estop: a person"),
        (hand_watch.HOLD, "fault: too hot", ("too hot",), "fault: too hot"),
        (hand_watch.RELAX, "fault: too hot", ("too hot", "too much current"), "fault: too hot (and 1 more)"),
        (hand_watch.ACTIVE, "", ("silent",), "fault: silent"),
    ],
)
def test_why_a_hand_is_down(mode: int, reason: str, faults: tuple[str, ...], why: str) -> None:
    assert why_not(mode, reason, faults) == why


def test_a_hand_goes_down_once_and_is_spoken_of_until_it_is_well() -> None:
    watch = HandWatch()
    assert not watch.heard
    assert not watch.look("", 0.0) and not watch.text() and watch.heard
    assert watch.look("estop: a person", 1.0)
    assert watch.text() == "the hand is down: estop: a person; reset_estop lifts it"
    assert not watch.look("hold: a person", 2.0) and "set_mode lifts it" in watch.text()
    assert not watch.reminder(1.0 + REMINDER / 2)
    assert watch.reminder(1.0 + REMINDER).startswith(
        f"no episode for {REMINDER:.0f} s: the hand is down: hold"
    )
    assert not watch.reminder(1.0 + REMINDER)
    assert not watch.look("", 100.0) and not watch.text() and not watch.reminder(1000.0)
    assert watch.look("fault: x", 101.0) and watch.stops == 2


def test_pauses_grow_up_to_a_bound_and_begin_anew() -> None:
    retry = Retry(first=1.0, longest=3.0)
    due = []
    for _ in range(4):
        retry.failed(10.0)
        due.append(retry.due)
    assert due == [11.0, 12.0, 13.0, 13.0]
    retry.succeeded()
    assert retry.due == 0.0
    retry.failed(20.0)
    assert retry.due == 21.0
