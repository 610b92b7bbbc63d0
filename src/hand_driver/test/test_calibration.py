"""Calibration and tension on hands in memory: what is measured and refused, files, drift."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from hand_driver.calibration import (
    Calibrate,
    Calibration,
    CalibrationError,
    calibration_hash,
    load_calibration,
    save_calibration,
)
from hand_driver.device import Reading
from hand_driver.hand_spec import Motor
from hand_driver.movement import STALLED, Home, Moment, Movement, Reach, Run, reach_within
from hand_driver.safety import Refusal
from hand_driver.tension import Tension

sys.path.insert(0, str(Path(__file__).parent))

from driver_toy import SPEC, RecordingHand, Rig

NAMES, NEUTRAL = SPEC.joint_names, SPEC.values("neutral")


class BentHand(RecordingHand):
    """Reads some joints beside where they are."""

    bend = np.zeros(len(NAMES))
    gain = np.zeros(len(NAMES))

    def read(self) -> Reading:
        reading = super().read()
        away = self.bend + self.gain * (reading.position - NEUTRAL)
        return dataclasses.replace(reading, position=reading.position + away)


def bent() -> Rig:
    rig = Rig()
    rig.hand = rig.driver.hand = BentHand(SPEC, rig.world)
    return rig


def finish(rig: Rig, movement: Movement, limit: int = 6000) -> Run:
    """Make it to its end, with every bound of the safety core checked."""
    run = rig.driver.move(movement, rig.now)
    slow = rig.speed * SPEC.safety.takeover_share + 1e-9
    while not run.over:
        limit -= 1
        assert limit > 0, "never over"
        before = rig.last.copy()
        rig.step()
        assert (np.abs(rig.last - before) <= slow).all(), "not at the safe speed"
    return run


def test_offsets_are_measured_and_every_joint_is_moved_to_both_sides() -> None:
    rig = bent()
    rig.hand.bend = np.array([0.05, 0.0, -0.03, 0.0, 0.0, 0.0])
    movement = Calibrate([], SPEC)
    seen, run = [], rig.driver.move(movement, rig.now)
    while not run.over:
        rig.step()
        seen.append((movement.joint, movement.progress))
    assert not run.failure
    offsets = movement.result(None).offsets
    np.testing.assert_allclose([offsets[n] for n in NAMES], rig.hand.bend, atol=1e-3)
    sent = np.array(rig.hand.sent)
    for i in range(len(NAMES)):
        low, high = (reach_within(SPEC, i, s) for s in (-0.25, 0.25))
        np.testing.assert_allclose([sent[:, i].min(), sent[:, i].max()], [low, high], atol=1e-6)
    progress = [p for _, p in seen]
    assert progress == sorted(progress) and progress[-1] == 1.0
    assert {name for name, _ in seen} >= set(NAMES)
    np.testing.assert_allclose(rig.last, NEUTRAL, atol=1e-5)


def test_it_is_made_at_the_safe_speed_and_only_what_was_listed_changes() -> None:
    rig = bent()
    rig.hand.bend = np.array([0.05, 0.02, 0.0, 0.0, 0.0, 0.0])
    movement = Calibrate(["index_pip"], SPEC)
    assert not finish(rig, movement).failure
    sent = np.array(rig.hand.sent)
    still = [0, 2, 3, 4, 5]
    np.testing.assert_allclose(sent[:, still] - NEUTRAL[still], 0.0, atol=1e-6)
    result = movement.result(Calibration("mock", {"thumb_mcp": 0.01, "index_pip": 0.9}))
    assert set(result.offsets) == {"thumb_mcp", "index_pip"} and result.offsets["thumb_mcp"] == 0.01
    assert result.offsets["index_pip"] == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize("field", ["bend", "gain"])
def test_a_joint_that_is_not_where_it_is_told_to_be_is_refused_by_name(field: str) -> None:
    rig = bent()
    setattr(rig.hand, field, np.where(np.array(NAMES) == "middle_pip", 0.4, 0.0))
    run = finish(rig, Calibrate([], SPEC))
    assert "middle_pip is read" in run.failure and "0.1 (max_drift)" in run.failure
    if field == "gain":
        assert "0.140 from where it was told" in run.failure
    with pytest.raises(Refusal, match=r"joints\[0\] is 'nose', must be one of index_mcp"):
        Calibrate(["nose"], SPEC)


@pytest.mark.parametrize("make", [lambda: Home(SPEC), lambda: Calibrate([], SPEC)])
def test_a_cancelled_movement_brakes_from_the_next_period_on(make: type) -> None:
    rig = Rig()
    rig.driver.stream("x", NEUTRAL + 0.3, rig.now)
    rig.steps(80)
    rig.driver.give_back("x")
    run = rig.driver.move(make(), rig.now)
    rig.steps(30)
    assert not run.over and np.abs(rig.moved).max() > 0
    before = rig.last.copy()
    rig.driver.mover.stop(run, "cancelled")
    outcome = rig.step()  # which checks the acceleration limit
    assert run.failure == "cancelled" and outcome.decision.mode.value == "hold"
    rig.steps(10)
    stopped = rig.last.copy()
    rig.steps(50)
    np.testing.assert_array_equal(rig.last, stopped)
    assert np.abs(stopped - before).max() <= (rig.speed * SPEC.safety.takeover_share).max()


def test_a_movement_that_something_keeps_away_says_so() -> None:
    rig = Rig()
    way = Reach(NEUTRAL + 0.2, SPEC)
    for second in np.arange(0.0, STALLED, 0.5):
        assert way.targets(Moment(second, NEUTRAL, rig.driver.reading)) is not None
    with pytest.raises(Refusal, match=r"index_mcp stays at 0.200, 0.200 from 0.400, for more than 5.0 s"):
        way.targets(Moment(STALLED + 0.5, NEUTRAL, rig.driver.reading))


def test_a_file_is_written_read_back_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "mock.calibration"
    assert load_calibration(path, SPEC) == (None, "")
    assert calibration_hash(SPEC, "") == SPEC.digest()
    digest = save_calibration(path, Calibration("mock", {"index_mcp": 0.0123}))
    again, same = load_calibration(path, SPEC)
    assert again == Calibration("mock", {"index_mcp": 0.0123}) and digest == same
    assert calibration_hash(SPEC, digest) not in (SPEC.digest(), digest)
    other = save_calibration(path, Calibration("mock", {"index_mcp": 0.0124}))
    assert calibration_hash(SPEC, other) != calibration_hash(SPEC, digest)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "mock.calibration: not YAML"),
        ("- 1", "must be a mapping with hand and offsets"),
        ("{hand: orca, offsets: {}}", "hand is 'orca', must be 'mock'"),
        ("{hand: mock, offsets: {nose: 0.0}}", "joint 'nose' is unknown"),
        ("{hand: mock, offsets: {index_mcp: 0.2}}", r"offsets.index_mcp is 0.2, must be in \[-0.1, 0.1\]"),
        ("{hand: mock, offsets: {index_mcp: .nan}}", "offsets.index_mcp is nan"),
    ],
)
def test_a_wrong_file_is_refused_with_file_field_value_and_bound(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "mock.calibration"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=words):
        load_calibration(path, SPEC)


def test_a_pose_that_disagrees_with_the_calibration_is_refused() -> None:
    rig = bent()
    rig.driver.calibration = Calibration("mock", {"index_mcp": 0.05})
    rig.hand.bend = np.array([0.05, 0.0, 0.0, 0.0, 0.0, 0.0])
    rig.driver.stream("x", NEUTRAL + 0.1, rig.now)
    rig.steps(5)
    with pytest.raises(Refusal, match=r"was not held still for 0.3 s"):
        rig.driver.verify()
    rig.steps(120)
    rig.driver.verify()
    rig.hand.bend = np.array([-0.06, 0.0, 0.0, 0.0, 0.0, 0.0])
    rig.steps(2)
    with pytest.raises(
        Refusal, match=r"index_mcp is read -0.060 from .* calibrated: 0.050, .*: 0.1 \(max_drift\)"
    ):
        rig.driver.verify()


def test_a_pose_is_not_verified_while_there_is_a_fault_or_no_reading() -> None:
    rig = Rig()
    rig.steps(3)
    rig.driver.verify()
    rig.world.unplugged = True
    rig.step()
    with pytest.raises(Refusal, match="the bus could not be read"):
        rig.driver.verify()
    rig.steps(5)
    rig.world.unplugged = False
    rig.steps(2)
    with pytest.raises(Refusal, match=r"reads in a row failed.*recover_hand lifts it"):
        rig.driver.verify()


TENDONS = dataclasses.replace(
    SPEC,
    motors=tuple(
        Motor(id=i, coupling=((name, 2.0),) if i != 1 else (("index_mcp", 0.5), ("index_pip", -2.0)))
        for i, name in enumerate(NAMES)
    ),
)


def test_slack_is_what_the_motor_turns_until_it_pulls() -> None:
    rig = Rig(TENDONS)
    for i in (0, 1):
        rig.world.blocked[i] = float(NEUTRAL[i] + 0.1 * (i + 1))
    movement = Tension(["index_mcp", "index_pip"], 0.006, TENDONS)
    start = rig.last.copy()
    assert not finish(rig, movement).failure
    np.testing.assert_allclose(movement.slack, [2.0 * 0.1, 2.0 * 0.2], atol=0.02)
    assert movement.progress == 1.0
    np.testing.assert_allclose(rig.last, start, atol=1e-5)


def test_a_tendon_that_never_pulls_and_hands_without_tendons_are_refused() -> None:
    run = finish(Rig(TENDONS), Tension(["thumb_mcp"], 0.39, TENDONS))
    assert "thumb_mcp draws" in run.failure and "wanted: 0.390 A; its tendon is not taut" in run.failure
    with pytest.raises(Refusal, match="mock has no tendons that are known here: its file has no `motors`"):
        Tension([], 0.0, SPEC)
    direct = dataclasses.replace(SPEC, motors=(Motor(id=0, joint="index_mcp"),))
    with pytest.raises(Refusal, match="its motors drive the joints directly"):
        Tension([], 0.0, direct)
    for current in (-0.1, 0.5, np.nan):
        with pytest.raises(
            Refusal, match=r"current is .* A, must be in \[0, 0.4\] A \(soft_current of index_mcp\)"
        ):
            Tension([], current, TENDONS)
