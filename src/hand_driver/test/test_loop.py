"""The control loop: absolute times on a clock of the test, and callbacks only between two steps."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hand_driver.loop import PATIENCE, ControlLoop
from hand_driver.pacing import Pacer

PERIOD = 0.01


class FakeTurn:
    """A lock for one thread whose waiting makes the clock go on, unless somebody comes meanwhile."""

    def __init__(self) -> None:
        self.now = 100.0
        self.depth = 0
        self.waits: list[float] = []
        self.visits: list[tuple[float, Any]] = []
        """(time, what somebody calls then)"""
        self.oversleep = 0.0

    def clock(self) -> float:
        return self.now

    def __enter__(self) -> bool:
        self.depth += 1
        return True

    def __exit__(self, *error: Any) -> None:
        self.depth -= 1

    def wait(self, timeout: float) -> bool:
        assert self.depth == 1
        self.waits.append(timeout)
        end = self.now + timeout
        if self.visits and self.visits[0][0] < end:
            at, visit = self.visits.pop(0)
            self.now, self.depth = max(self.now, at), 0
            visit()
            self.depth = 1
            return True
        self.now = end + self.oversleep
        return False

    def notify(self) -> None:
        assert self.depth >= 1


class Stepper:
    """Makes steps on a grid, each of a given duration, until there were enough of them."""

    def __init__(self, durations: list[float]) -> None:
        self.turn = FakeTurn()
        self.pacer = Pacer(PERIOD)
        self.durations = list(durations)
        self.began: list[float] = []
        self.late: list[float] = []
        self.loop = ControlLoop(self.work, self.prepare, self.turn.clock, self.turn)

    def prepare(self) -> None:
        self.pacer.start(self.turn.now)

    def work(self) -> float:
        assert self.turn.depth == 1
        if self.turn.now >= self.pacer.due:
            self.began.append(self.turn.now)
            self.late.append(self.pacer.advance(self.turn.now))
            self.turn.now += self.durations.pop(0)
            if not self.durations:
                self.loop.stop()
        return self.pacer.due

    def run(self) -> list[float]:
        """Times at which the steps began."""
        self.loop._run()  # in this thread
        if self.loop._error is not None:
            raise self.loop._error
        return [t - 100.0 for t in self.began]


def test_steps_keep_to_the_grid_however_long_each_takes_within_its_period() -> None:
    stepper = Stepper([0.001, 0.009, 0.004, 0.0, 0.002])
    assert stepper.run() == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04])
    assert stepper.turn.waits[:4] == pytest.approx([0.009, 0.001, 0.006, 0.01])
    assert stepper.pacer.missed == 0


def test_a_wait_that_lasts_too_long_does_not_add_up() -> None:
    stepper = Stepper([0.001] * 50)
    stepper.turn.oversleep = 0.0003
    began = stepper.run()
    assert began[1:] == pytest.approx([0.01 * i + 0.0003 for i in range(1, 50)])
    assert stepper.late[1:] == pytest.approx([0.0003] * 49)


@pytest.mark.parametrize(("stall", "missed"), [(0.015, 0), (0.021, 1), (0.035, 2), (1.005, 99)])
def test_times_without_a_step_are_counted(stall: float, missed: int) -> None:
    stepper = Stepper([stall, 0.0, 0.0])
    stepper.run()
    assert stepper.pacer.missed == missed


def test_a_visitor_has_the_lock_and_the_next_step_comes_in_time() -> None:
    stepper = Stepper([0.001, 0.001, 0.001])
    seen: list[tuple[float, int]] = []
    visit = stepper.loop.exclusive(lambda: seen.append((stepper.turn.now - 100.0, stepper.turn.depth)))
    stepper.turn.visits = [(100.004, visit), (100.015, visit)]
    assert stepper.run() == pytest.approx([0.0, 0.01, 0.02])
    assert [depth for _, depth in seen] == [1, 1]
    assert [at for at, _ in seen] == pytest.approx([0.004, 0.015])
    assert stepper.loop.asked_at == pytest.approx(100.015)


def test_a_loop_without_pauses_lets_in_who_asks() -> None:
    stepper = Stepper([0.0] * 5)
    stepper.pacer.period = 0.0
    came: list[int] = []
    visit = stepper.loop.exclusive(lambda: came.append(len(stepper.began)))
    work = stepper.work

    def ask_in_the_third_step() -> float:
        due = work()
        if len(stepper.began) == 3 and not came:
            stepper.loop._asking += 1  # as a thread that waits for the lock
            stepper.turn.visits = [(0.0, lambda: (leave(), visit()))]
        return due

    def leave() -> None:
        stepper.loop._asking -= 1

    stepper.loop._work = ask_in_the_third_step
    stepper.run()
    assert came == [3]
    assert stepper.turn.waits == [PATIENCE]


def test_what_ends_the_loop_is_raised_by_who_looks_after_it() -> None:
    def fail() -> float:
        raise OSError("the bus is on fire")

    loop = ControlLoop(fail)
    loop.tend()
    loop._thread.join(10.0)
    with pytest.raises(OSError, match="on fire"):
        loop.tend()
    loop.stop()


def test_a_callback_keeps_name_and_answer_and_an_error_frees_the_lock() -> None:
    loop = ControlLoop(lambda: 0.0)

    def answer(request: int) -> int:
        return 10 // request

    wrapped = loop.exclusive(answer)
    assert wrapped.__name__ == "answer"
    assert wrapped(5) == 2
    with pytest.raises(ZeroDivisionError):
        wrapped(0)
    assert wrapped(2) == 5


def test_real_threads_never_meet_and_both_go_on() -> None:
    inside, meetings, steps = [0], [0], [0]

    def enter() -> None:
        inside[0] += 1
        meetings[0] += inside[0] > 1
        time.sleep(0.0002)
        inside[0] -= 1

    def work() -> float:
        enter()
        steps[0] += 1
        return 0.0  # always due

    loop = ControlLoop(work)
    visit = loop.exclusive(enter)
    loop.tend()
    for _ in range(100):
        visit()
    loop.stop()
    assert meetings[0] == 0 and steps[0] > 0
    assert not loop._thread.is_alive()
