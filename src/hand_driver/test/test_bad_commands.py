"""Commands that are refused, late, doubled or in conflict: what the driver does, and the bound that holds meanwhile.

`Rig.step` checks in every period that no joint target moved by more than speed, acceleration and range allow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hand_driver.playback import Chunk
from hand_driver.safety import Refusal
from hand_driver.safety_core import Mode
from hand_driver.safety_lease import Priority

sys.path.insert(0, str(Path(__file__).parent))

from driver_toy import NEAR, PERIOD, SPEC, Rig, moving, with_safety

NEUTRAL, LOWER = SPEC.values("neutral"), SPEC.values("lower")
STEP = SPEC.values("max_velocity") * PERIOD


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"actions": np.full((10, 6), np.nan)}, r"actions\[0\] is nan, must be finite"),
        ({"actions": np.full((10, 6), np.inf)}, r"actions\[0\] is inf, must be finite"),
        ({"actions": np.full((5, 5), 0.1)}, r"actions has shape \(5, 5\)"),
        (
            {"actions": np.full((5, 6), 45.0)},
            r"actions: the largest value is 45, allowed: 3\.0 \(other units\?\)",
        ),
        ({"expiry": -1.0}, r"expiry -1\.000 s has passed"),
        ({"expiry": 3600.0}, r"expiry 3600\.000 s is more than 5\.0 s after robot time .*future-dated"),
        ({"obs_step": 1000}, r"obs_step is 1000, the episode is at step \d+: future-dated"),
        ({"episode_id": "another"}, r"episode_id 'another', the running episode is 'e'"),
        ({"source": "another"}, r"source 'another': the hand is held by 'policy' \(policy\)"),
        ({"source": ""}, r"source is empty, must say who moves the hand"),
    ],
)
def test_bad_chunks_are_refused_and_the_one_in_force_is_played_on(
    changed: dict[str, object], text: str
) -> None:
    rig = Rig()
    moving(rig)
    left = rig.driver.playback.steps_left
    with pytest.raises(Refusal, match=text):
        rig.offer(NEAR, **changed)
    assert rig.driver.playback.steps_left == left
    assert rig.steps(5).decision.mode is Mode.ACTIVE
    assert rig.offer(NEAR), "the next good one is taken"


def test_duplicate_chunks_move_the_hand_once() -> None:
    rig = Rig()
    chunk: Chunk = rig.chunk(NEAR, steps=5)
    assert rig.driver.offer(chunk, rig.now) is True and rig.driver.offer(chunk, rig.now) is False
    done = [rig.step().done for _ in range(8)]
    assert sum(d is not None for d in done) == 1
    assert rig.driver.offer(chunk, rig.now) is False


def test_a_chunk_that_expires_while_it_waits_is_not_started() -> None:
    rig = Rig()
    assert rig.offer(NEAR, expiry=rig.driver.robot_time)
    rig.driver.robot_ns += 1_000_000
    assert rig.step().decision.mode is Mode.HOLD and rig.driver.counters["expired_chunks"] == 1


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(np.degrees(NEAR), id="degrees for radians"),
        pytest.param(np.roll(np.linspace(-0.4, 1.6, 6), 3), id="wrong order"),
        pytest.param(NEUTRAL + 0.9, id="too far"),
    ],
)
def test_targets_in_other_units_or_in_another_order_show_as_a_jump(targets: np.ndarray) -> None:
    rig = Rig()
    rig.steps(3)
    before = rig.last
    for _ in range(10):
        rig.driver.stream("glove", targets, rig.now)
        outcome = rig.step()
        assert "from where it was; allowed: 0.5" in outcome.decision.refused
        assert outcome.decision.mode is Mode.HOLD
    np.testing.assert_array_equal(rig.last, before)
    assert rig.driver.counters["refused_targets"] == 10


def test_a_jump_inside_a_chunk_cuts_it_off() -> None:
    rig = Rig(with_safety(max_action=100.0))
    rows = np.vstack([np.tile(NEAR, (5, 1)), np.tile(LOWER, (5, 1))])
    assert rig.offer(rows)
    outcomes = [rig.step() for _ in range(7)]
    assert [o.decision.mode for o in outcomes[:5]] == [Mode.ACTIVE] * 5
    cut = outcomes[5].stopped
    assert cut is not None and len(cut.applied) == 5 and outcomes[6].decision.mode is Mode.HOLD


@pytest.mark.parametrize("wrong", [np.full(6, np.nan), np.full(6, np.inf), np.zeros(5)])
def test_streams_of_nonsense_are_refused_at_the_door(wrong: np.ndarray) -> None:
    rig = Rig()
    moving(rig)
    with pytest.raises(Refusal, match=r"targets (has shape|holds)"):
        rig.driver.stream("glove", wrong, rig.now)
    assert rig.step().decision.mode is Mode.ACTIVE


def test_the_first_chunk_far_from_the_hand_is_approached_slowly() -> None:
    rig = Rig()
    assert rig.offer(NEUTRAL + 0.4, steps=15)
    rig.steps(15)
    assert (
        np.abs(np.diff(np.array(rig.hand.sent), axis=0)).max()
        <= STEP.max() * SPEC.safety.takeover_share + 1e-9
    )


def test_two_publishers_the_second_gets_the_hand_when_the_first_falls_silent() -> None:
    rig = Rig()
    moving(rig)
    with pytest.raises(Refusal, match=r"source 'rival': the hand is held by 'policy'"):
        rig.offer(LOWER, source="rival")
    rig.steps(40)
    rig.steps(round(SPEC.safety.lease_timeout / PERIOD) + 1)
    assert rig.offer(NEUTRAL, source="rival")
    assert rig.step().decision.mode is Mode.ACTIVE
    with pytest.raises(Refusal, match=r"source 'policy': the hand is held by 'rival'"):
        rig.offer(NEUTRAL)


def test_a_human_takes_the_hand_and_gives_it_back_without_a_jump() -> None:
    rig = Rig()
    moving(rig)
    for i in range(30):
        rig.driver.stream("glove", NEUTRAL + 0.1 * np.sin(0.1 * i), rig.now)
        outcome = rig.step()
        assert outcome.decision.mode is Mode.ACTIVE
        if i == 0:
            assert outcome.stopped is not None and outcome.stopped.chunk.source == "policy"
        with pytest.raises(Refusal, match=r"held by 'glove' \(human\)"):
            rig.offer(NEAR)
    with pytest.raises(Refusal, match="held by 'glove'"):
        rig.driver.stream("script", NEUTRAL, rig.now, Priority.POLICY)
    assert rig.driver.give_back("glove") and not rig.driver.give_back("glove")
    assert rig.step().decision.mode is Mode.HOLD
    assert rig.offer(NEAR) and rig.step().decision.mode is Mode.ACTIVE


def test_a_chunk_of_a_human_cuts_off_that_of_the_policy() -> None:
    rig = Rig()
    moving(rig)
    assert rig.offer(rig.last, source="teleop")
    outcome = rig.step()
    assert outcome.stopped is not None and outcome.stopped.chunk.source == "policy"
    assert rig.driver.playback.source == "teleop" and outcome.decision.mode is Mode.ACTIVE


def test_a_source_is_a_persons_by_the_name_that_the_recorder_knows_only() -> None:
    rig = Rig()
    moving(rig)
    with pytest.raises(Refusal, match="the hand is held by 'policy'"):
        rig.offer(rig.last, source="human")
    assert rig.step().decision.mode is Mode.ACTIVE and rig.driver.playback.source == "policy"
