"""Canary episodes: which count, and when a candidate is promoted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from softflow_learner.canary import OPEN_EPISODES, Canary, Margin, Part, Verdict

TRIED, KNOWN = 9, 7


def canary(episodes: int = 2, margin: Margin | None = None) -> Canary:
    return Canary(TRIED, KNOWN, episodes, margin or Margin(0.1))


def part(episode_id: str, version: int, rewards: Sequence[float] = (1.0, 2.0), **values: Any) -> Part:
    base = {"start_step": 0, "versions": [version] * len(rewards), "final": True}
    return Part(episode_id=episode_id, rewards=rewards, **{**base, **values})


def play(into: Canary, version: int, returns: Sequence[float]) -> None:
    for i, value in enumerate(returns):
        into.add(part(f"{version}-{i}", version, (value,)))


def judged(tried: Sequence[float], known: Sequence[float], margin: Margin) -> Verdict | None:
    made = canary(len(known), margin)
    play(made, TRIED, tried)
    play(made, KNOWN, known)
    return made.verdict()


@pytest.mark.parametrize(
    ("tried", "known", "margin", "promoted"),
    [
        ([10.0, 12.0], [10.0, 12.0], Margin(0.0), True),
        ([9.9, 9.9], [11.0, 11.0], Margin(0.1), True),
        ([9.8, 9.8], [11.0, 11.0], Margin(0.1), False),
        ([-11.0, -11.0], [-10.0, -10.0], Margin(0.1), True),  # a worse return may be a negative one
        ([-11.1, -11.1], [-10.0, -10.0], Margin(0.1), False),
        ([8.0, 8.0], [10.0, 10.0], Margin(0.0, absolute=2.0), True),
        ([7.9, 7.9], [10.0, 10.0], Margin(0.9, absolute=2.0), False),
        ([float("nan"), 99.0], [10.0, 10.0], Margin(0.1), False),
    ],
)
def test_a_candidate_is_promoted_when_its_mean_return_is_not_worse_by_the_margin(
    tried: list[float], known: list[float], margin: Margin, promoted: bool
) -> None:
    verdict = judged(tried, known, margin)
    assert verdict is not None and verdict.promoted is promoted


def test_the_reason_has_the_numbers() -> None:
    verdict = judged([8.0, 9.0], [10.0, 12.0], Margin(0.1))
    assert verdict == Verdict(
        False,
        "mean return 8.5 of version 9 over 2 episodes, 11 of version 7 over 2: must be at least 9.9",
    )


def test_nothing_is_judged_before_both_have_played() -> None:
    made = canary(2)
    play(made, TRIED, [5.0] * 7)
    play(made, KNOWN, [5.0])
    assert made.verdict() is None and len(made.returns[TRIED]) == 2
    made.add(part("last", KNOWN))
    assert made.verdict() is not None


def test_an_episode_in_segments_of_two_robots_is_put_together() -> None:
    made = canary(1)
    for name, version in (("a", TRIED), ("b", KNOWN)):
        made.add(part(name, version, (1.0, 2.0), final=False))
    for name, version in (("a", TRIED), ("b", KNOWN)):
        made.add(part(name, version, (4.0,), start_step=2))
    assert made.returns == {TRIED: [7.0], KNOWN: [7.0]}


def test_a_step_without_a_chunk_says_nothing_of_the_weights() -> None:
    made = canary(1)
    made.add(part("a", TRIED, (1.0, 1.0, 1.0), versions=[TRIED, 0, TRIED]))
    assert made.returns[TRIED] == [3.0]


@pytest.mark.parametrize(
    "parts",
    [
        [part("a", TRIED, (1.0, 1.0), versions=[TRIED, KNOWN])],
        [part("a", TRIED, final=False), part("a", KNOWN, start_step=2)],
        [part("a", TRIED, start_step=5)],
        [part("a", TRIED, final=False), part("a", TRIED, start_step=3)],
        [part("a", TRIED, intervened=True)],
        [part("a", 0)],
        [part("a", 8)],
    ],
    ids=["mixed", "mixed segments", "no beginning", "gap", "human", "no policy", "another version"],
)
def test_an_episode_does_not_count(parts: list[Part]) -> None:
    made = canary(1)
    for one in parts:
        made.add(one)
    assert made.returns == {TRIED: [], KNOWN: []}


def test_a_candidate_that_was_refused_fails_whatever_it_played() -> None:
    made = canary(1)
    made.add(part("a", TRIED, (9.0,)))
    made.add(part("b", KNOWN, (1.0,)))
    made.refuse("not finite")
    assert made.verdict() == Verdict(False, "not finite")


def test_episodes_that_never_end_do_not_pile_up() -> None:
    made = canary(1)
    for i in range(10 * OPEN_EPISODES):
        made.add(part(str(i), TRIED, final=False))
    assert len(made._open) == OPEN_EPISODES


def test_no_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="episodes is 0, must be at least 1"):
        canary(0)
