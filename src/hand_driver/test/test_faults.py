"""The fault table: what goes wrong, what the driver does about it, and the bound that holds meanwhile.

`Rig.step` checks in every period that no joint target moved by more than speed, acceleration and range allow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hand_driver.safety import Refusal
from hand_driver.safety_core import Mode

sys.path.insert(0, str(Path(__file__).parent))

from driver_toy import NEAR, PERIOD, SPEC, Rig, moving, with_safety

NEUTRAL, LOWER, UPPER = (SPEC.values(n) for n in ("neutral", "lower", "upper"))
STEP = SPEC.values("max_velocity") * PERIOD
BRAKING = SPEC.values("max_velocity") ** 2 / (2 * SPEC.values("max_acceleration")) + STEP
"""[rad] that a joint at full speed goes on while it is braked."""


def test_source_falls_silent_and_the_hand_holds_within_two_periods_then_relaxes() -> None:
    rig = Rig()
    moving(rig)
    rig.driver.playback.flush()
    at = rig.last
    for _ in range(2):
        outcome = rig.step()
        assert outcome.decision.mode is Mode.HOLD
    rig.steps(20)
    assert (np.abs(rig.last - at) <= BRAKING).all() and (rig.moved == 0).all()
    assert (rig.hand.stiffness == 1.0).all()
    outcome = rig.steps(round(SPEC.safety.starve_relax / PERIOD))
    assert outcome.decision.mode is Mode.RELAX and (rig.hand.stiffness == SPEC.safety.relax_stiffness).all()
    held = rig.last
    rig.world.position = rig.world.position - 0.2  # somebody bends the soft fingers
    rig.world.torque[:] = False
    assert rig.offer(held)
    taken = [rig.step() for _ in range(30)]
    assert any(o.decision.mode is Mode.ACTIVE for o in taken)  # after it was taken up where it is
    assert np.abs(np.diff(np.array(rig.hand.sent), axis=0)).max() <= STEP.max() + 1e-9


def test_a_joint_that_is_not_read_while_the_hand_is_taken_up_again_brakes_it() -> None:
    rig = Rig()
    rig.steps(round(SPEC.safety.starve_relax / PERIOD) + 2)
    rig.world.position = rig.world.position - 0.2  # somebody bends the soft fingers
    rig.world.torque[:] = False
    rig.step()
    assert rig.offer(rig.last)
    while (np.abs(rig.moved) <= rig.change).all():  # soon too fast to stop in one period
        assert rig.step().decision.mode is Mode.HOLD
    rig.world.silent = {3}
    rig.step()
    rig.world.silent = set()
    before = np.abs(rig.moved)
    outcome = rig.step()  # the reading that it goes by lacks the joint
    assert outcome.decision.mode is Mode.HOLD and not outcome.decision.faults
    np.testing.assert_allclose(np.abs(rig.moved), np.maximum(before - rig.change, 0.0), atol=1e-12)
    assert before.max() > rig.change.max(), "a stop at once would be too sudden"


@pytest.mark.parametrize("times", [1, 2])
def test_single_lost_reads_do_not_disturb_but_are_counted(times: int) -> None:
    rig = Rig()
    moving(rig)
    rig.world.unplugged = True
    for _ in range(times):
        rig.step()
    rig.world.unplugged = False
    assert not rig.steps(3).decision.faults
    assert rig.driver.counters["failed_reads"] == times and rig.driver.counters["write_errors"] == times


def test_bus_unplugged_stops_the_hand_and_it_recovers_only_when_told() -> None:
    rig = Rig()
    moving(rig)
    rig.world.unplugged = True
    in_force = rig.hand.sent[-1]
    outcome = rig.steps(SPEC.safety.read_failures + 1)
    assert outcome.decision.mode is Mode.HOLD
    assert any("reads in a row failed" in f for f in outcome.decision.faults)
    assert any("writes in a row failed" in f for f in outcome.decision.faults)
    np.testing.assert_array_equal(rig.driver.safety.command, in_force)
    with pytest.raises(Refusal, match="the hand does not come back: mock: the bus is unplugged"):
        rig.recover()
    rig.world.unplugged = False
    outcome = rig.steps(50)
    assert outcome.decision.faults, "a fault stays"
    np.testing.assert_array_equal(rig.last, in_force)
    rig.recover()
    rig.steps(5)
    assert rig.driver.safety.may_move
    moving(rig)


def test_unplugged_while_the_fingers_are_bent_they_are_taken_up_where_they_are() -> None:
    rig = Rig()
    moving(rig)
    rig.world.unplugged = True
    rig.steps(5)
    rig.world.torque[:] = False
    rig.world.position = NEUTRAL - 0.1
    rig.world.unplugged = False
    rig.steps(2)
    rig.recover()
    np.testing.assert_allclose(rig.last, NEUTRAL - 0.1, atol=1e-5)
    rig.steps(20)
    np.testing.assert_allclose(rig.world.position, NEUTRAL - 0.1, atol=1e-3)


def test_writes_that_fail_alone_do_not_pile_up_to_a_jump() -> None:
    rig = Rig()
    moving(rig)
    rig.world.deaf = True
    before = rig.hand.sent[-1]
    for _ in range(2):
        assert rig.step().stopped is not None
        assert rig.offer(NEAR, steps=20)
    rig.world.deaf = False
    rig.step()
    assert (np.abs(rig.hand.sent[-1] - before) <= STEP + 1e-9).all()
    rig.world.deaf = True
    outcome = rig.steps(SPEC.safety.write_failures + 1)
    assert outcome.decision.faults == ("3 writes in a row failed, allowed: 2",)
    assert outcome.decision.mode is Mode.HOLD


def test_a_step_that_did_not_reach_the_hand_is_not_recorded_as_applied() -> None:
    rig = Rig()
    actions = NEUTRAL + 0.01 * np.arange(1, 7)[:, None]
    assert rig.offer(actions)
    rig.steps(2)
    before = rig.driver.at
    rig.world.deaf = True
    outcome = rig.step()
    rig.world.deaf = False
    after, cut = rig.driver.at, outcome.stopped
    np.testing.assert_array_equal(after.command, before.command)
    np.testing.assert_array_equal(after.applied, rig.driver.actions.held_action(before.applied))
    assert after.source == "" and after.starved and before.source == "policy"
    assert outcome.decision.refused == "write: mock: the write was not taken"
    assert outcome.done is None and cut is not None and len(cut.applied) == 2 and not cut.modified
    assert not rig.steps(3).decision.faults and rig.driver.playback.steps_left == 0
    moving(rig)


def test_partial_motor_failure_holds_the_whole_hand() -> None:
    rig = Rig()
    moving(rig)
    rig.world.silent = {2}
    outcome = rig.steps(SPEC.safety.read_failures)
    held = rig.last
    outcome = rig.step()
    assert outcome.decision.mode is Mode.HOLD
    assert outcome.decision.faults == ("middle_mcp was not read 3 times in a row",)
    rig.steps(10)
    np.testing.assert_array_equal(rig.last, held)
    with pytest.raises(Refusal, match=r"the cause lasts: middle_mcp was not read"):
        rig.recover()
    with pytest.raises(Refusal, match=r"chunk_id \d+: fault: middle_mcp"):
        rig.offer(NEAR)


def test_frozen_encoder_is_found_while_moving_and_not_while_resting() -> None:
    rig = Rig()
    rig.hand.freeze(0)
    assert not rig.steps(100).decision.faults
    assert rig.offer(NEAR, steps=60)
    outcome = rig.step()
    periods = 0
    while not outcome.decision.faults:
        outcome, periods = rig.step(), periods + 1
        assert periods * PERIOD < 2 * SPEC.safety.frozen_time
    assert "index_mcp has reported the very same state" in outcome.decision.faults[0]
    assert outcome.decision.mode is Mode.HOLD and outcome.stopped is not None
    rig.world.frozen = {}
    rig.step()
    rig.recover()
    assert not rig.steps(50).decision.faults


def test_a_finger_that_an_object_stops_is_not_taken_for_frozen() -> None:
    rig = Rig()
    rig.world.blocked = {0: NEUTRAL[0] + 0.05}
    assert rig.offer(NEAR, steps=60)
    assert not rig.steps(60).decision.faults


def test_overheating_slows_then_relaxes_and_needs_to_cool_below_the_soft_limit() -> None:
    rig = Rig()
    moving(rig)
    rig.world.temperature[1] = 65.0  # half-way
    outcome = rig.steps(2)
    assert outcome.decision.mode is Mode.ACTIVE and outcome.decision.stiffness[1] == pytest.approx(0.5)
    rig.steps(10)
    assert (np.abs(rig.moved) <= STEP * np.where(np.arange(6) == 1, 0.5, 1.0) + 1e-9).all()
    rig.world.temperature[1] = 71.0
    outcome = rig.steps(2)
    assert outcome.decision.mode is Mode.RELAX
    assert outcome.decision.faults == ("index_pip is at 71 degC, limit 70",)
    assert outcome.decision.stiffness.max() <= SPEC.safety.relax_stiffness
    rig.world.temperature[1] = 62.0
    rig.steps(2)
    soft = rig.hand.stiffness
    with pytest.raises(Refusal, match="the cause lasts: index_pip is at 62 degC"):
        rig.recover()
    assert (rig.hand.stiffness <= soft).all(), "not even for a moment"
    rig.world.temperature[1] = 55.0
    rig.steps(2)
    rig.recover()
    assert rig.steps(10).decision.mode is Mode.HOLD and rig.driver.safety.may_move


def test_a_peak_of_current_is_allowed_and_a_lasting_one_relaxes() -> None:
    rig = Rig()
    moving(rig, steps=2)
    rig.world.extra_current = {3: 1.5}
    rig.steps(3)
    rig.world.extra_current = {}
    assert not rig.steps(5).decision.faults
    rig.world.extra_current = {3: 0.7}
    seen: list[float] = []
    outcome = rig.step()
    while not outcome.decision.faults and len(seen) < 200:
        outcome = rig.step()
        seen.append(float(outcome.decision.stiffness[3]))
    assert seen[-1] < seen[0] and min(seen[:-1]) >= SPEC.safety.derate_floor
    assert "middle_pip draws" in outcome.decision.faults[0] and outcome.decision.mode is Mode.RELAX
    assert 0.1 < len(seen) * PERIOD < 5 * SPEC.safety.current_time


def test_what_the_hand_itself_reports_stops_it_in_the_next_period() -> None:
    rig = Rig()
    moving(rig)
    rig.world.alarms = {5: "overload"}
    rig.step()
    outcome = rig.step()
    assert outcome.decision.faults == ("thumb_mcp reports overload",) and outcome.decision.mode is Mode.HOLD


def test_estop_during_a_chunk_stops_in_that_period_and_stays() -> None:
    rig = Rig()
    moving(rig)
    at = rig.last
    rig.driver.safety.estop("button")
    rig.driver.safety.estop("again")
    outcome = rig.step()
    assert outcome.decision.mode is Mode.ESTOP and outcome.stopped is not None
    assert outcome.decision.events == ("emergency stop: button",)
    np.testing.assert_array_equal(rig.last, at)
    with pytest.raises(Refusal, match="estop: button"):
        rig.offer(NEAR)
    rig.driver.stream("glove", NEAR, rig.now)
    rig.steps(50)
    np.testing.assert_array_equal(rig.last, at)
    for reason in ("", "  "):
        with pytest.raises(Refusal, match="reason is empty"):
            rig.driver.safety.reset_estop(reason)
    rig.driver.safety.follow()
    assert rig.step().decision.mode is Mode.ESTOP, "following does not lift it"
    rig.driver.safety.reset_estop("all clear")
    with pytest.raises(Refusal, match="there is no emergency stop to lift"):
        rig.driver.safety.reset_estop("all clear")
    rig.steps(60)
    moving(rig)


def test_after_a_soft_emergency_stop_the_hand_is_taken_up_where_it_was_bent_to() -> None:
    rig = Rig(with_safety(estop_stiffness=0.0))
    moving(rig)
    rig.driver.safety.estop("button")
    rig.step()
    assert (rig.hand.stiffness == 0.0).all()
    rig.world.torque[:] = False
    rig.world.position = NEUTRAL - 0.2
    rig.steps(20)
    rig.driver.safety.reset_estop("all clear")
    rig.step()
    assert 0.0 < rig.hand.stiffness.max() <= SPEC.safety.relax_stiffness
    rig.steps(100)
    np.testing.assert_allclose(rig.last, NEUTRAL - 0.2, atol=0.021)
    assert (rig.hand.stiffness == 1.0).all()


@pytest.mark.parametrize("jump", [-1e6, float("nan"), float("inf"), 1e6])
def test_steps_of_the_clock_move_nothing_too_far(jump: float) -> None:
    rig = Rig()
    moving(rig)
    now = rig.now
    rig.step(jump)
    rig.now = max(now, rig.now) if np.isfinite(rig.now) else now
    rig.steps(5)
    assert rig.driver.safety.counters["clock_steps"] == (int(jump != 1e6))
    assert not rig.driver.safety.estop_reason


def test_driver_killed_and_restarted_with_an_object_in_the_hand() -> None:
    rig = Rig()
    rig.world.blocked = {i: NEUTRAL[i] + 0.1 for i in range(6)}
    assert rig.offer(NEUTRAL + 0.2, steps=60)
    rig.steps(60)
    world = rig.world
    assert (np.abs(world.position - world.target) > 0.05).all(), "it presses"
    for _ in range(100):  # nobody is there
        rig.hand.wait_period()
    assert world.torque.all()
    again = Rig(world=world, episode="next")
    measured = world.position.copy()
    np.testing.assert_allclose(again.last, measured, atol=1e-5)
    again.step()
    np.testing.assert_allclose(again.hand.sent[0], measured, atol=1e-5)
    again.steps(20)
    np.testing.assert_allclose(again.last, measured, atol=1e-5)
    assert world.torque.all() and (again.hand.stiffness == 1.0).all()


def test_a_start_without_a_known_pose_is_refused() -> None:
    world = Rig().world
    world.silent = {4}
    with pytest.raises(OSError, match="the pose at the start is unknown: thumb_abd was not read"):
        Rig(world=world)


def test_old_readings_stop_the_hand() -> None:
    rig = Rig()
    moving(rig)
    rig.world.age = 0.5
    rig.step()
    outcome = rig.step()
    assert outcome.decision.mode is Mode.HOLD and "the last reading is 0.5" in outcome.decision.faults[0]


def test_on_the_way_to_the_neutral_pose_chunks_are_refused() -> None:
    rig = Rig()
    rig.world.position = UPPER - 0.7
    rig.driver.start(rig.now)
    rig.last = rig.driver.safety.command.copy()
    rig.driver.home(rig.now)
    with pytest.raises(Refusal, match="on its way to the neutral pose"):
        rig.offer(NEAR)
    periods = 0
    while rig.driver.homing:
        rig.step()
        periods += 1
        assert periods < 500
    np.testing.assert_allclose(rig.last, NEUTRAL, atol=1e-5)
    moving(rig)


def test_held_by_the_operator_until_told_to_follow() -> None:
    rig = Rig()
    moving(rig)
    rig.driver.safety.hold("coffee")
    outcome = rig.step()
    assert outcome.stopped is not None and outcome.decision.mode is Mode.HOLD
    with pytest.raises(Refusal, match="hold: coffee"):
        rig.offer(NEAR)
    rig.driver.safety.follow()
    moving(rig)


def test_recovering_wants_a_reason_and_a_fault() -> None:
    rig = Rig()
    rig.step()
    with pytest.raises(Refusal, match="there is no fault to recover from"):
        rig.recover()
    with pytest.raises(Refusal, match="reason is empty"):
        rig.recover(" ")


@pytest.mark.parametrize("turn", [-2 * np.pi, 2 * np.pi])
def test_a_motor_that_lost_a_turn_is_not_driven_into_its_stop(turn: float) -> None:
    rig = Rig()
    moving(rig)
    rig.world.alarms = {1: "overload"}
    rig.steps(3)
    rig.world.alarms, rig.world.torque[1] = {}, False
    rig.world.position[1] += turn  # as its encoder has it after the restart
    rig.step()
    with pytest.raises(
        Refusal, match=r"index_pip is at -?\d\.\d+, more than 0\.5 beyond \[-0\.4, 1\.6\]: .*a lost turn"
    ):
        rig.recover()
    assert rig.driver.safety.faults
    taken_up = rig.world.target.copy()
    rig.steps(20)
    np.testing.assert_array_equal(
        rig.world.target, taken_up
    )  # nothing is sent to a motor whose turn is unknown,
    assert (rig.hand.stiffness <= SPEC.safety.relax_stiffness).all()  # but what it may draw
    rig.world.position[1] -= turn
    rig.world.torque[1] = False  # turned back by hand, without torque
    rig.recover()
    rig.steps(10)
    moving(rig)
    rig.world.position[1] += turn
    with pytest.raises(OSError, match="the pose at the start is unknown: index_pip is at"):
        Rig(world=rig.world)
