"""Pictures are named by the step they belong to, whatever comes first."""

from __future__ import annotations

from softflow_perception.steps import KEPT, Steps

PERIOD = 50_000_000


def of(count: int) -> Steps:
    steps = Steps()
    for k in range(count):
        steps.add((k + 1) * PERIOD, "e", k)
    return steps


def test_a_picture_belongs_to_the_newest_state_that_is_not_younger() -> None:
    steps = of(3)
    assert steps.at(2 * PERIOD) == steps.at(3 * PERIOD - 1) == ("e", 1)
    assert steps.at(9 * PERIOD) == ("e", 2)
    assert steps.at(PERIOD - 1) == Steps().at(PERIOD) == ("", 0)


def test_a_state_is_awaited_from_a_period_after_the_last_one_on() -> None:
    steps = of(3)
    assert not steps.awaited(4 * PERIOD - 1)
    assert steps.awaited(4 * PERIOD)
    steps.add(4 * PERIOD, "e", 3)
    assert not steps.awaited(4 * PERIOD)
    steps.add(5 * PERIOD, "f", 0)
    assert steps.at(5 * PERIOD) == ("f", 0)


def test_nothing_is_awaited_before_the_period_is_known() -> None:
    assert not Steps().awaited(PERIOD) and not of(1).awaited(9 * PERIOD)


def test_repeated_lost_and_late_states_do_not_change_the_period() -> None:
    steps = of(20)
    steps.add(20 * PERIOD, "e", 19)  # A world that waits says it again.
    steps.add(30 * PERIOD, "e", 29)
    steps.add(30 * PERIOD + 1, "e", 30)
    assert not steps.awaited(31 * PERIOD) and steps.awaited(31 * PERIOD + 1)


def test_a_clock_that_begins_anew_is_followed() -> None:
    steps = of(KEPT)
    steps.add(PERIOD, "f", 0)
    steps.add(2 * PERIOD, "f", 1)
    assert steps.at(2 * PERIOD) == ("f", 1) and steps.awaited(3 * PERIOD)
