"""The lease, the order of joints, and what one decision of the safety core holds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hand_driver.backends.mock import MockHand
from hand_driver.safety import Refusal, in_order
from hand_driver.safety_core import Mode, Safety, Wanted
from hand_driver.safety_lease import Lease, Priority

sys.path.insert(0, str(Path(__file__).parent))

from driver_toy import PERIOD, SPEC

NEUTRAL = SPEC.values("neutral")


def test_the_lease_goes_to_the_first_and_to_others_after_silence() -> None:
    lease = Lease(timeout=0.5)
    assert lease.current(0.0) == "" and lease.acquire("a", Priority.POLICY, 0.0) is True
    assert lease.acquire("a", Priority.POLICY, 0.3) is False
    with pytest.raises(Refusal, match=r"source 'b': the hand is held by 'a' \(policy\), for 0\.40 s"):
        lease.acquire("b", Priority.POLICY, 0.4)
    lease.renew(0.7)
    assert lease.current(1.1) == "a" and lease.current(1.21) == ""
    assert lease.acquire("b", Priority.POLICY, 1.3) is True and lease.taken == 2


def test_a_human_takes_it_at_once_and_a_policy_never_from_a_human() -> None:
    lease = Lease(timeout=0.5)
    lease.acquire("policy", Priority.POLICY, 0.0)
    assert lease.acquire("glove", Priority.HUMAN, 0.1) is True
    with pytest.raises(Refusal, match=r"held by 'glove' \(human\)"):
        lease.acquire("policy", Priority.POLICY, 0.2)
    with pytest.raises(Refusal, match="held by 'glove'"):
        lease.acquire("pad", Priority.HUMAN, 0.2)
    assert not lease.release("policy") and lease.release("glove") and not lease.release("glove")
    assert lease.acquire("policy", Priority.POLICY, 0.2) is True


def test_nobody_is_no_holder() -> None:
    lease = Lease(timeout=0.5)
    with pytest.raises(Refusal, match="source is empty"):
        lease.acquire("", Priority.HUMAN, 0.0)
    assert not lease.release("")


def test_joints_are_sorted_by_name() -> None:
    np.testing.assert_array_equal(in_order(("b", "a"), np.array([2.0, 1.0]), ("a", "b")), [1.0, 2.0])


@pytest.mark.parametrize(
    ("names", "values", "text"),
    [
        (("a",), [1.0], r"missing \['b'\], unknown none"),
        (("a", "c"), [1.0, 2.0], r"missing \['b'\], unknown \['c'\]"),
        (("a", "a"), [1.0, 2.0], r"'a' comes twice"),
        (("a", "b"), [1.0], r"name has 2 entries, position has 1"),
    ],
)
def test_joints_that_are_not_those_of_the_hand_are_refused(
    names: tuple[str, ...], values: list[float], text: str
) -> None:
    with pytest.raises(Refusal, match=text):
        in_order(names, np.array(values), ("a", "b"))


def started() -> tuple[Safety, MockHand]:
    hand = MockHand(SPEC)
    hand.connect()
    safety = Safety(SPEC)
    safety.start(hand.read().position, 10.0)
    safety.follow()
    return safety, hand


def test_only_the_holder_is_followed() -> None:
    safety, hand = started()
    goal = NEUTRAL + 0.02
    refused = safety.step(10.01, hand.read(), Wanted(goal, "policy"))
    assert (
        refused.mode is Mode.HOLD
        and refused.refused == "source 'policy' does not hold the hand, 'nobody' does"
    )
    safety.lease.acquire("policy", Priority.POLICY, 10.01)
    followed = safety.step(10.02, hand.read(), Wanted(goal, "policy"))
    assert (
        followed.mode is Mode.ACTIVE and followed.refused == "" and (followed.target > NEUTRAL + 1e-4).all()
    )


@pytest.mark.parametrize("wrong", [np.full(6, np.nan), np.zeros(5), np.full(6, np.inf)])
def test_targets_that_are_none_are_refused_in_the_core_too(wrong: np.ndarray) -> None:
    safety, hand = started()
    safety.lease.acquire("policy", Priority.POLICY, 10.0)
    decision = safety.step(10.01, hand.read(), Wanted(wrong, "policy"))
    assert decision.mode is Mode.HOLD and decision.refused.startswith("targets")
    np.testing.assert_allclose(decision.target, NEUTRAL, atol=1e-5)


def test_before_it_is_told_to_follow_the_hand_holds() -> None:
    hand = MockHand(SPEC)
    hand.connect()
    safety = Safety(SPEC)
    assert safety.blocked and safety.why_not() == "hold: not started"
    with pytest.raises(Refusal, match=r"position\[0\] is nan"):
        safety.start(np.full(6, np.nan), 0.0)
    safety.start(hand.read().position, 0.0)
    safety.lease.acquire("policy", Priority.POLICY, 0.0)
    assert safety.step(PERIOD, hand.read(), Wanted(NEUTRAL + 0.02, "policy")).mode is Mode.HOLD


def test_an_event_is_told_once() -> None:
    safety, hand = started()
    hand.world.alarms = {0: "overload"}
    first = safety.step(10.01, hand.read(), None)
    assert first.events == ("fault: index_mcp reports overload",)
    assert safety.step(10.02, hand.read(), None).events == () and safety.counters["faults"] == 1
