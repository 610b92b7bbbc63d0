"""Faults of real wires and motors, behind the whole driver: real SDK, real back end, emulated motors.

Every goal that reaches a motor is recorded; none is farther from the one before than the speed limit allows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hand_driver.actions import JointActions
from hand_driver.backends import make_hand
from hand_driver.control import Driver, Outcome
from hand_driver.emulator import EmulatedBus, EmulatedMotor
from hand_driver.emulator.motor import OVERLOAD
from hand_driver.hand_file import parse_hand
from hand_driver.safety import Refusal
from hand_driver.safety_core import Mode
from hand_driver.safety_lease import Priority

JOINTS = ("index_mcp", "index_pip", "thumb_mcp")
FILE: dict[str, Any] = {
    "name": "three",
    "backend": "dynamixel",
    "control_rate": 50,
    "joint_defaults": {
        "lower": -1.0,
        "upper": 1.0,
        "max_velocity": 2.0,
        "max_acceleration": 40.0,
        "soft_current": 0.4,
        "max_current": 0.6,
        "soft_temperature": 60.0,
        "max_temperature": 70.0,
    },
    "joints": {name: {} for name in JOINTS},
    "motor_defaults": {"offset": 3.141592653589793},
    "motors": [{"id": i + 1, "joint": name} for i, name in enumerate(JOINTS)],
    # A loaded machine may be slow; nothing here is a measurement of time.
    "safety": {"max_age": 5.0, "lease_timeout": 30.0, "starve_relax": 60.0},
    "bus": {"watchdog": 1.0, "timeout": 0.05},
}
TICKS = 4096 / (2 * np.pi)
STEP = 2.0 / 50 * TICKS + 1.0
"""[ticks] of a period, and one for rounding."""


class WatchedMotor(EmulatedMotor):
    """Remembers the goals that reached it, and from where it was taken up."""

    def __init__(self, motor_id: int) -> None:
        super().__init__(motor_id)
        self.goals: list[tuple[int, bool]] = []
        self.limits: list[int] = []
        """Goal currents that reached it."""
        self.incurable = 0
        """A hardware error that comes back after each restart."""

    def write(self, address: int, data: bytes) -> int:
        held = self.get("bus_watchdog") > 0
        error = super().write(address, data)
        if address == 116 and not error:
            self.goals.append((self.get("goal_position"), held))
        if address == 102 and not error:
            self.limits.append(self.get("goal_current"))
        return error

    def reboot(self) -> None:
        super().reboot()
        if self.incurable:
            self.fail(self.incurable)

    def largest_jump(self) -> float:
        """[ticks] between a goal and the next, but for that with which it was taken up."""
        jumps = [abs(b - a) for (a, _), (b, held) in zip(self.goals, self.goals[1:], strict=False) if held]
        return float(max(jumps, default=0))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "three.yaml"
        values = {**FILE, "bus": {**FILE["bus"], "port": str(folder / "tty")}}
        self.file.write_text(yaml.safe_dump(values))
        self.spec = parse_hand(values, self.file.name)
        self.motors = [WatchedMotor(m.id) for m in self.spec.motors]
        self.bus = EmulatedBus(self.motors, folder / "tty")
        self.hand = make_hand(self.spec)
        self.driver = Driver(self.hand, self.spec, JointActions(self.spec))
        self.driver.start(time.monotonic())
        self.driver.begin("e", 0, time.monotonic())

    def step(self, towards: float | None = 0.6) -> Outcome:
        """A period in which somebody wants to go to an angle, a little at a time."""
        start = time.monotonic()
        if towards is not None and self.driver.safety.may_move:
            command = self.driver.safety.command
            goal = command + np.clip(towards - command, -0.04, 0.04)
            self.driver.stream("glove", goal, start, Priority.HUMAN)
        outcome = self.driver.step(start)
        time.sleep(max(0.0, self.spec.period - (time.monotonic() - start)))
        return outcome

    def until(self, wanted: Callable[[Outcome], bool], periods: int = 150, **values: Any) -> Outcome:
        for _ in range(periods):
            outcome = self.step(**values)
            if wanted(outcome):
                return outcome
        raise AssertionError(f"not within {periods} periods; last: {outcome.decision}")

    def check(self) -> None:
        assert max(m.largest_jump() for m in self.motors) <= STEP
        assert all(m.goals for m in self.motors)

    def close(self) -> None:
        self.driver.close()
        self.bus.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def moving(bench: Bench) -> None:
    for _ in range(10):
        assert bench.step().decision.mode is Mode.ACTIVE


def faulty(outcome: Outcome) -> bool:
    return bool(outcome.decision.faults)


def test_the_cable_is_drawn_and_put_back(bench: Bench) -> None:
    moving(bench)
    bench.bus.unplug()
    outcome = bench.until(faulty, periods=5)
    assert outcome.decision.mode is Mode.HOLD
    with pytest.raises(Refusal, match="the hand does not come back"):
        bench.driver.recover("tried")
    bench.bus.plug()
    assert faulty(bench.step()), "nothing moves before somebody says so"
    bench.driver.recover("cable back in")
    bench.until(lambda o: o.decision.mode is Mode.ACTIVE)
    bench.check()


def test_one_silent_motor_holds_all_and_comes_back_where_it_is(bench: Bench) -> None:
    moving(bench)
    bench.motors[1].silent = True
    outcome = bench.until(faulty, periods=6)
    assert "index_pip was not read 3 times in a row" in outcome.decision.faults
    with bench.bus.lock:
        goals = [m.goals[-1] for m in bench.motors]
    bench.step()
    assert [m.goals[-1] for m in bench.motors][::2] == goals[::2], "the others hold"
    with bench.bus.lock:
        bench.motors[1].reboot()  # its supply was gone
        bench.motors[1].silent = False
        bench.motors[1].ticks -= 60.0
    time.sleep(0.2)
    bench.driver.recover("connector pushed in")
    bench.until(lambda o: o.decision.mode is Mode.ACTIVE)
    bench.check()


def test_an_overload_stops_the_hand_until_the_motor_was_restarted(bench: Bench) -> None:
    moving(bench)
    with bench.bus.lock:
        bench.motors[2].fail(OVERLOAD)
    outcome = bench.until(faulty, periods=4)
    assert "motor 3 reports" in outcome.decision.faults[0] and bench.motors[2].get("torque_enable") == 0
    bench.driver.recover("finger freed")
    assert bench.motors[2].get("torque_enable") == 1 and bench.motors[2].get("hardware_error") == 0
    bench.until(lambda o: o.decision.mode is Mode.ACTIVE)
    bench.check()


def test_overheating_derates_then_relaxes(bench: Bench) -> None:
    moving(bench)
    with bench.bus.lock:
        bench.motors[0].thermal.value = bench.motors[0].thermal.ambient = 65.0
    outcome = bench.until(lambda o: o.decision.stiffness[0] < 1.0, periods=10)
    assert outcome.decision.stiffness[0] == pytest.approx(0.5, abs=0.11)
    with bench.bus.lock:
        bench.motors[0].thermal.value = bench.motors[0].thermal.ambient = 75.0
    outcome = bench.until(faulty, periods=10)
    assert outcome.decision.mode is Mode.RELAX
    bench.step()
    assert bench.motors[0].get("goal_current") <= 600 * bench.spec.safety.relax_stiffness
    bench.check()


def relaxed(bench: Bench) -> list[int]:
    """Motor 1 is hot; what the current limits are now, and are to stay."""
    moving(bench)
    with bench.bus.lock:
        bench.motors[0].thermal.value = bench.motors[0].thermal.ambient = 75.0
    assert bench.until(faulty, periods=10).decision.mode is Mode.RELAX
    bench.step()
    with bench.bus.lock:
        limits = [m.get("goal_current") for m in bench.motors]
    assert max(limits) <= 600 * bench.spec.safety.relax_stiffness
    return limits


def test_a_relaxed_hand_that_is_connected_anew_is_relaxed_again(bench: Bench) -> None:
    limits = relaxed(bench)
    bench.driver.stand("not configured")
    bench.driver.close()
    bench.driver.start(time.monotonic())
    bench.driver.stand("inactive")
    assert bench.step().decision.mode is Mode.RELAX
    with bench.bus.lock:
        assert [m.get("goal_current") for m in bench.motors] == limits


def forget_limits(bench: Bench) -> None:
    with bench.bus.lock:
        for motor in bench.motors:
            motor.limits.clear()


def test_recovering_a_relaxed_hand_stiffens_no_motor(bench: Bench) -> None:
    relaxed(bench)
    with bench.bus.lock:
        bench.motors[0].thermal.value = bench.motors[0].thermal.ambient = 30.0
    bench.until(lambda _: bool(bench.driver.reading.temperature[0] < 60.0), periods=10)
    forget_limits(bench)
    bench.driver.recover("cooled")
    with bench.bus.lock:
        assert max(max(m.limits) for m in bench.motors) <= 600 * bench.spec.safety.relax_stiffness
    bench.until(lambda o: o.decision.mode is Mode.ACTIVE)
    assert [m.get("goal_current") for m in bench.motors] == [600, 600, 600]


def test_a_recovery_that_fails_leaves_a_hot_hand_as_soft_as_it_was(bench: Bench) -> None:
    limits = relaxed(bench)
    with bench.bus.lock:
        bench.motors[2].incurable = OVERLOAD
        bench.motors[2].fail(OVERLOAD)
    bench.until(lambda o: any("motor 3" in fault for fault in o.decision.faults), periods=10)
    forget_limits(bench)
    for _ in range(2):
        with pytest.raises(Refusal, match="motor 3 reports overload after a restart"):
            bench.driver.recover("tried")
        assert bench.step().decision.mode is Mode.RELAX
    with bench.bus.lock:
        for motor, limit in zip(bench.motors[:2], limits, strict=False):
            assert motor.limits and max(motor.limits) <= limit and motor.get("goal_current") == limit


def test_a_hand_that_did_not_come_back_is_soft_and_still_derated(bench: Bench) -> None:
    moving(bench)
    with bench.bus.lock:
        bench.motors[0].incurable = OVERLOAD
        bench.motors[0].fail(OVERLOAD)
    assert bench.until(faulty, periods=10).decision.mode is Mode.HOLD
    with pytest.raises(Refusal, match="motor 1 reports overload after a restart"):
        bench.driver.recover("tried")
    with bench.bus.lock:
        goals = [len(m.goals) for m in bench.motors]
        assert [m.get("goal_current") for m in bench.motors[1:]] == [
            600,
            600,
        ]  # the recovery did not come so far
    bench.step()
    with bench.bus.lock:
        assert [m.get("goal_current") for m in bench.motors[1:]] == [180, 180]
        bench.motors[2].thermal.value = bench.motors[2].thermal.ambient = 75.0
    bench.until(lambda _: bench.motors[2].get("goal_current") == 36, periods=20)
    with bench.bus.lock:
        assert [len(m.goals) for m in bench.motors] == goals  # no target was sent
        bench.motors[0].incurable = 0
        bench.motors[2].thermal.value = bench.motors[2].thermal.ambient = 30.0
    bench.until(lambda _: bool(bench.driver.reading.temperature[2] < 60.0), periods=10)
    bench.driver.recover("repaired")
    bench.until(lambda o: o.decision.mode is Mode.ACTIVE)
    bench.check()


def test_a_motor_that_presses_too_long_is_relaxed(bench: Bench) -> None:
    moving(bench)
    with bench.bus.lock:
        bench.motors[0].extra_current = 700
    outcome = bench.until(faulty)
    assert outcome.decision.mode is Mode.RELAX and "index_mcp draws" in outcome.decision.faults[0]
    bench.check()


def test_a_frozen_encoder_is_found(bench: Bench) -> None:
    moving(bench)
    bench.motors[1].frozen = True
    outcome = bench.until(faulty)
    assert "index_pip has reported the very same state" in outcome.decision.faults[0]
    bench.check()


def test_lost_and_changed_bytes_cost_periods_and_never_a_jump(bench: Bench) -> None:
    moving(bench)
    bench.bus.drop = bench.bus.corrupt = 0.002
    bench.bus.corrupt_next = 3
    for turn in range(60):
        bench.step(towards=0.5 if turn < 30 else -0.5)
        if bench.driver.safety.faults:
            bench.bus.drop = bench.bus.corrupt = 0.0
            bench.step()
            bench.driver.recover("wire pressed down")
            bench.bus.drop = bench.bus.corrupt = 0.002
    # A packet to the motors that was lost makes the next one farther by as much.
    assert max(m.largest_jump() for m in bench.motors) <= 4 * STEP


def test_a_host_that_stood_still_too_long_finds_the_motors_stopped(bench: Bench) -> None:
    moving(bench)
    time.sleep(1.3)
    outcome = bench.until(faulty, periods=4)
    assert "was stopped by its watchdog, 1.0 s of silence" in outcome.decision.faults[0]
    assert outcome.decision.mode is Mode.HOLD
    bench.driver.recover("the machine is free again")
    bench.until(lambda o: o.decision.mode is Mode.ACTIVE)
    bench.check()


HOST = """
import sys, time
import numpy as np
from hand_driver.backends import make_hand
from hand_driver.actions import JointActions
from hand_driver.control import Driver
from hand_driver.hand_file import load_hand

spec = load_hand(sys.argv[1])
driver = Driver(make_hand(spec), spec, JointActions(spec))
driver.start(time.monotonic())
driver.begin("e", 0, time.monotonic())
goal = float(sys.argv[2])
while True:
    command = driver.safety.command
    if driver.safety.may_move and sys.argv[3] == "move":
        driver.stream("glove", command + np.clip(goal - command, -0.04, 0.04), time.monotonic())
    driver.step(time.monotonic())
    print("step", flush=True)
    time.sleep(spec.period)
"""


def host(bench: Bench, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOST, str(bench.file), *arguments], stdout=subprocess.PIPE, text=True
    )


def lines(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(count)][-1] == "step\n"


def test_a_driver_that_is_killed_drops_nothing_and_the_next_one_takes_over_without_a_jump(
    bench: Bench,
) -> None:
    bench.driver.close()
    for motor in bench.motors:
        motor.blocked_at = 2048 + 150  # an object between the fingers
    first = host(bench, "0.6", "move")
    lines(first, 40)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(1.3)  # longer than the watchdog's patience
    bench.bus.advance()
    with bench.bus.lock:
        assert [m.get("torque_enable") for m in bench.motors] == [1, 1, 1], "what is held is not dropped"
        assert [m.get("bus_watchdog") for m in bench.motors] == [-1, -1, -1], "they know that nobody is there"
        held = [m.ticks for m in bench.motors]
        for motor in bench.motors:
            motor.goals.clear()
    second = host(bench, "0.0", "hold")
    lines(second, 20)
    second.terminate()
    second.wait()
    with bench.bus.lock:
        for motor, ticks in zip(bench.motors, held, strict=True):
            assert motor.get("torque_enable") == 1 and motor.ticks == pytest.approx(ticks, abs=1.0)
            assert all(abs(goal - ticks) <= 1.0 for goal, _ in motor.goals), "taken up at the measured pose"
