"""Which announcements a robot obeys: versions grow, go back by rollback alone, and replays change nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from softflow_policy.versions import REMEMBERED, Announcement, State, Versions
from softflow_policy.weights import MAX_BYTES, WeightsError

CANDIDATE, ACTIVE, ROLLED_BACK = State.CANDIDATE, State.ACTIVE, State.ROLLED_BACK


def said(version: int, state: State = ACTIVE, **values: Any) -> Announcement:
    base = {"sha256": f"{version:064x}", "size": 10, "spec_hash": "s", "layout_hash": "l"}
    return Announcement(version=version, state=state, **{**base, **values})


def robot(version: int) -> Versions:
    made = Versions()
    if version:
        made.put_in_force(version, said(version).sha256)
    return made


def obey(made: Versions, one: Announcement) -> None:
    """What the node does: take it in, and put a goal in force."""
    made.accept(one)
    if made.goal:
        made.put_in_force(made.goal.version, made.goal.sha256)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"version": 0}, "version is 0, must be at least 1"),
        ({"sha256": "ab"}, "sha256 of version 5 is 'ab', must be 64 hexadecimal digits"),
        ({"size": 0}, rf"size of version 5 is 0 bytes, must be in \[1, {MAX_BYTES}\]"),
        ({"size": MAX_BYTES + 1}, f"size of version 5 is {MAX_BYTES + 1} bytes"),
    ],
)
def test_an_announcement_with_a_bad_field_is_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(WeightsError, match=named):
        said(**{"version": 5, **values})


def test_a_newer_version_is_obeyed_and_a_repetition_says_nothing_new() -> None:
    made = robot(3)
    assert made.accept(said(5)) and made.goal == said(5)
    assert not made.accept(said(5))
    made.put_in_force(5, said(5).sha256)
    assert made.goal is None and not made.accept(said(5))


def test_an_older_version_is_stale_also_while_a_newer_one_is_on_its_way() -> None:
    made = robot(3)
    with pytest.raises(WeightsError, match="version 2 is stale, must be greater than 3, which is not rolled"):
        made.accept(said(2))
    made.accept(said(9))
    with pytest.raises(WeightsError, match="version 8 is stale, must be greater than 9"):
        made.accept(said(8))
    made.give_up(said(9))
    assert made.accept(said(8)) and made.active.version == 3


def test_a_known_number_with_another_file_is_refused() -> None:
    made = robot(3)
    with pytest.raises(WeightsError, match=r"sha256 of version 3 is a{64}, must be 0+3 .*two learners"):
        made.accept(said(3, sha256="a" * 64))
    with pytest.raises(WeightsError, match="two learners"):
        made.accept(said(3, ROLLED_BACK, sha256="a" * 64))
    assert made.rolled_back == []


def test_a_rollback_brings_an_older_version_back_and_the_newer_one_never() -> None:
    made = robot(9)
    made.accept(said(9, ROLLED_BACK))
    assert made.active.version == 9  # until there is something better
    obey(made, said(7))
    assert made.active.version == 7
    for state in (ACTIVE, CANDIDATE):
        with pytest.raises(WeightsError, match="version 9 was rolled back"):
            made.accept(said(9, state))
    obey(made, said(10))
    with pytest.raises(WeightsError, match="version 7 is stale"):
        made.accept(said(7))


def test_a_replayed_rollback_changes_nothing_once_a_newer_version_is_in_force() -> None:
    made = robot(9)
    history = [said(9, ROLLED_BACK), said(7), said(10), said(11)]
    for one in history:
        obey(made, one)
    for one in history:
        try:
            obey(made, one)
        except WeightsError:
            continue
    assert made.active.version == 11


def test_what_is_in_force_depends_on_the_announcements_and_not_on_their_order() -> None:
    history = [said(5), said(6), said(7, CANDIDATE), said(7, ROLLED_BACK), said(6, ROLLED_BACK)]
    ends = set()
    for order in itertools.permutations(history):
        made = robot(4)
        for _ in range(2):  # latched announcements come again
            for one in order:
                try:
                    obey(made, one)
                except WeightsError:
                    continue
        ends.add((made.active.version, made.trial))
    assert ends == {(5, None)}


def test_a_candidate_is_tried_beside_the_active_version_until_it_is_judged() -> None:
    made = robot(5)
    assert made.accept(said(6, CANDIDATE)) and made.trial == said(6, CANDIDATE)
    assert not made.accept(said(6, CANDIDATE)) and made.active.version == 5
    made.accept(said(6, ROLLED_BACK))
    assert made.trial is None and made.active.version == 5
    made.accept(said(7, CANDIDATE))
    obey(made, said(7))
    assert made.active.version == 7 and made.trial is None
    assert not made.accept(said(7, CANDIDATE)), "its latched announcement comes after its promotion"


def test_an_older_candidate_is_stale() -> None:
    made = robot(5)
    made.accept(said(8, CANDIDATE))
    for version, bound in ((7, 8), (4, 8)):
        with pytest.raises(WeightsError, match=f"candidate version {version} is stale, .* than {bound}"):
            made.accept(said(version, CANDIDATE))


def test_a_robot_without_weights_takes_what_is_announced() -> None:
    made = robot(0)
    obey(made, said(1))
    assert made.active.version == 1


def test_what_was_rolled_back_is_remembered_within_bounds() -> None:
    made = Versions([4, 2])
    for version in range(5, 5 + 2 * REMEMBERED):
        made.accept(said(version, ROLLED_BACK))
    assert len(made.rolled_back) == REMEMBERED and made.rolled_back[-1] == 4 + 2 * REMEMBERED
    with pytest.raises(WeightsError, match="version 3 was rolled back"):
        Versions([3]).accept(said(3))
