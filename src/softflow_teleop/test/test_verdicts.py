"""Whether episodes succeeded, by key: kept until the recorder can take it."""

from __future__ import annotations

import pytest

from softflow_teleop.keyboard.verdicts import ANSWER, DISCARDED, PATIENCE, RETRY, START, Verdicts

TRUNCATED = 2


def after(*events: tuple[str, int, int]) -> Verdicts:
    verdicts = Verdicts()
    for event in events:
        verdicts.on_event(*event, 0.0)
    return verdicts


def test_of_a_running_episode_it_waits_for_the_end() -> None:
    verdicts = after(("one", START, 0))
    assert "one is labelled when it has ended" in verdicts.say(True, before=False)
    assert verdicts.next(1.0) is None
    verdicts.on_event("one", TRUNCATED, 7, 1.0)
    assert verdicts.next(1.0) is None, "its bag is being closed"
    found = verdicts.next(2.0)
    assert found is not None and (found[0].episode_id, found[0].success, found[1]) == ("one", True, 7)
    assert verdicts.next(2.0) is None, "it has been sent"
    assert verdicts.answered(found[0], True, "done", 2.1) == "success of episode one: done"
    assert verdicts.next(99.0) is None


@pytest.mark.parametrize(("before", "wanted"), [(False, "two"), (True, "one")])
def test_it_is_of_the_newest_episode_or_of_the_one_before(before: bool, wanted: str) -> None:
    verdicts = after(("one", START, 0), ("one", TRUNCATED, 7), ("two", START, 0), ("two", TRUNCATED, 3))
    verdicts.say(False, before)
    found = verdicts.next(0.0)
    assert found is not None and (found[0].episode_id, found[0].success) == (wanted, False)


def test_it_is_tried_again_until_the_bag_is_closed_and_not_for_ever() -> None:
    verdicts = after(("one", START, 0), ("one", TRUNCATED, 7))
    verdicts.say(True, before=False)
    now, tries, text = 0.0, 0, ""
    while not text:
        found = verdicts.next(now)
        assert found is not None
        tries, text = tries + 1, verdicts.answered(found[0], False, "still being recorded", now)
        assert verdicts.next(now) is None
        now += RETRY
    assert tries == PATIENCE / RETRY + 1
    assert text == "success of episode one: NOT LABELLED: still being recorded"


def test_it_is_sent_again_when_no_answer_comes() -> None:
    verdicts = after(("one", START, 0), ("one", TRUNCATED, 7))
    verdicts.say(True, before=False)
    first = verdicts.next(0.0)
    assert first is not None and verdicts.next(ANSWER - 0.1) is None
    assert verdicts.next(ANSWER) == first


def test_it_is_not_forgotten_when_others_have_begun() -> None:
    verdicts = after(("one", START, 0))
    verdicts.say(True, before=False)
    for event in (("one", TRUNCATED, 7), ("two", START, 0), ("two", TRUNCATED, 3), ("three", START, 0)):
        verdicts.on_event(*event, 0.0)
    found = verdicts.next(RETRY)
    assert found is not None and (found[0].episode_id, found[1]) == ("one", 7)


def test_the_last_word_counts() -> None:
    verdicts = after(("one", START, 0), ("one", TRUNCATED, 7))
    verdicts.say(True, before=False)
    first = verdicts.next(0.0)
    verdicts.say(False, before=False)  # while the recorder has not answered
    second = verdicts.next(0.0)
    assert first is not None and second is not None and not second[0].success
    assert verdicts.answered(first[0], True, "done", 0.1) == ""
    assert verdicts.answered(second[0], True, "done", 0.2) == "failure of episode one: done"


def test_what_cannot_be_labelled_is_said() -> None:
    verdicts = Verdicts()
    assert verdicts.say(True, before=False) == "success: no episode yet"
    verdicts.on_event("one", START, 0, 0.0)
    assert verdicts.say(False, before=True) == "failure: no episode before this one"
    verdicts.say(True, before=False)
    assert "one was discarded" in verdicts.on_event("one", DISCARDED, 0, 0.0)
    assert verdicts.next(0.0) is None and verdicts.say(True, before=False) == "success: no episode yet"
