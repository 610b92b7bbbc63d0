"""Chunk playback: what is played when, and every reason for which a chunk is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hand_driver.playback import Chunk, ChunkPlayback
from hand_driver.safety import Refusal

PERIOD = 0.05
SHA = "a" * 64


def chunk(chunk_id: int = 1, steps: int = 5, **values: Any) -> Chunk:
    """Actions of chunk n, step i are n + i / 100 in every entry."""
    actions = chunk_id / 10 + np.arange(5)[:, None] / 100 + np.zeros(8)
    made = Chunk(
        episode_id="now",
        chunk_id=chunk_id,
        obs_id=chunk_id,
        obs_step=0,
        source="policy",
        policy_version=0,
        policy_sha256="",
        log_prob=-1.5,
        dt=PERIOD,
        actions=actions,
        execute_steps=steps,
        expiry=100.0,
    )
    return dataclasses.replace(made, **values)


def playback() -> ChunkPlayback:
    made = ChunkPlayback(8, PERIOD)
    made.begin("before")
    made.begin("now")
    return made


def play(made: ChunkPlayback, steps: int, start: int = 0) -> list[float | None]:
    """First entries of the actions of so many control steps."""
    played: list[float | None] = []
    for step in range(start, start + steps):
        action = made.next_action(step, step * PERIOD)
        played.append(None if action is None else float(action[0]))
        if action is not None:
            made.applied(action)
    return played


def test_a_chunk_is_played_in_order_and_then_there_is_nothing() -> None:
    made = playback()
    assert made.steps_left == 0 and made.chunk_id == 0
    assert made.offer(chunk(), 0.0) is True
    assert made.steps_left == 5
    assert play(made, 7) == [pytest.approx(0.1 + i / 100) for i in range(5)] + [None, None]
    assert made.steps_left == 0


def test_only_execute_steps_are_played() -> None:
    made = playback()
    made.offer(chunk(steps=2), 0.0)
    assert play(made, 3) == [pytest.approx(0.1), pytest.approx(0.11), None]


def test_the_next_chunk_follows_without_a_missed_step() -> None:
    made = playback()
    made.offer(chunk(1, steps=3), 0.0)
    first = play(made, 2)
    made.offer(chunk(2, steps=3), 0.0)
    assert made.steps_left == 4 and made.chunk_id == 1
    rest = play(made, 5, start=2)
    assert first + rest == [pytest.approx(v) for v in (0.1, 0.11, 0.12, 0.2, 0.21, 0.22)] + [None]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_however_chunks_come_nothing_is_skipped_or_played_twice(
    lengths: list[int], data: st.DataObject
) -> None:
    made = playback()
    played: list[float | None] = []
    for number, steps in enumerate(lengths, start=1):
        assert made.offer(chunk(number, steps=steps), len(played) * PERIOD)
        # Play on until there is room for the next chunk, and perhaps some steps more.
        room = made.steps_left - steps + 1
        played += play(made, data.draw(st.integers(room, room + steps)), start=len(played))
    played += play(made, made.steps_left, start=len(played))
    wanted = [n / 10 + i / 100 for n, steps in enumerate(lengths, start=1) for i in range(steps)]
    assert [p for p in played if p is not None] == [pytest.approx(w) for w in wanted]


def test_the_last_step_hands_back_what_was_applied() -> None:
    made = playback()
    made.offer(chunk(steps=2), 0.0)
    for step in (7, 8):
        action = made.next_action(step, 0.0)
        assert action is not None
        done = made.applied(action)
        assert (done is not None) == (step == 8)
    assert done is not None and done.start_step == 7 and not done.modified
    np.testing.assert_array_equal(done.applied, chunk().actions[:2])


def test_an_action_that_was_clamped_marks_the_chunk_as_modified() -> None:
    made = playback()
    made.offer(chunk(steps=1), 0.0)
    action = made.next_action(0, 0.0)
    assert action is not None
    done = made.applied(action * 0.5)
    assert done is not None and done.modified


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"episode_id": "other"}, r"episode_id 'other', the running episode is 'now'"),
        ({"actions": np.zeros((5, 7))}, r"\(5, 7\), must be \(1\.\.64, 8\)"),
        ({"actions": np.zeros((65, 8))}, r"\(65, 8\), must be \(1\.\.64, 8\)"),
        ({"actions": np.zeros((0, 8))}, r"\(0, 8\), must be"),
        ({"actions": np.zeros(40)}, r"\(40,\), must be"),
        ({"execute_steps": 0}, r"execute_steps is 0, must be in \[1, 5\]"),
        ({"execute_steps": 6}, r"execute_steps is 6, must be in \[1, 5\]"),
        ({"dt": 0.1}, r"dt is 0\.1 s, the control period is 0\.05 s"),
        ({"dt": float("nan")}, r"dt is nan s, the control period is 0\.05 s"),
        ({"actions": np.full((5, 8), np.nan)}, r"actions\[0\] is nan, must be finite"),
        ({"actions": np.pad([[np.inf]], ((2, 2), (3, 4)))}, r"actions\[19\] is inf, must be finite"),
        ({"policy_version": 4, "policy_sha256": SHA}, r"policy_version 4 .*announced: 3 \(aaaaaaaa\)"),
        (
            {"policy_version": 3, "policy_sha256": "b" * 64},
            r"policy_version 3 \(bbbbbbbb\) was not announced",
        ),
        ({"policy_version": 3}, r"policy_version 3 \(no sha256\)"),
        ({"expiry": 1.9}, r"expiry 1\.900 s has passed, robot time is 2\.000 s"),
        ({"expiry": float("nan")}, r"expiry nan s"),
    ],
)
def test_refusals_name_field_value_and_bound_and_keep_the_state(values: dict[str, Any], named: str) -> None:
    made = playback()
    made.announce(3, SHA)
    made.offer(chunk(1), 0.0)
    play(made, 2)
    with pytest.raises(Refusal, match=named):
        made.offer(chunk(2, **values), 2.0)
    assert (made.chunk_id, made.steps_left) == (1, 3)
    assert made.offer(chunk(2), 2.0) is True  # the id of a refused chunk is not used up


def test_announced_weights_may_command() -> None:
    made = playback()
    made.announce(3, SHA)
    assert made.offer(chunk(policy_version=3, policy_sha256=SHA), 0.0)


def test_a_third_chunk_finds_the_queue_full() -> None:
    made = playback()
    made.offer(chunk(1), 0.0)
    play(made, 1)
    made.offer(chunk(2), 0.0)
    with pytest.raises(Refusal, match="chunk_id 3: the queue holds 2 already, depth is 1"):
        made.offer(chunk(3), 0.0)
    assert made.steps_left == 9


def test_repetitions_are_ignored_while_queued_while_played_and_afterwards() -> None:
    made = playback()
    made.offer(chunk(2), 0.0)
    assert made.offer(chunk(2), 0.0) is False
    play(made, 1)
    assert made.offer(chunk(2), 0.0) is False and made.offer(chunk(1), 0.0) is False
    play(made, 4, start=1)
    assert made.offer(chunk(2), 0.0) is False and made.steps_left == 0
    assert made.offer(chunk(2), 1000.0) is False  # long expired, but it was played


def test_a_late_chunk_of_the_episode_before_is_ignored_not_refused() -> None:
    made = playback()
    assert made.offer(chunk(episode_id="before"), 0.0) is False
    assert made.steps_left == 0


def test_before_the_first_episode_chunks_are_refused() -> None:
    with pytest.raises(Refusal, match="episode_id 'now'"):
        ChunkPlayback(8, PERIOD).offer(chunk(), 0.0)


def test_a_new_episode_empties_the_queue_and_counts_ids_anew() -> None:
    made = playback()
    made.offer(chunk(5), 0.0)
    play(made, 1)
    made.offer(chunk(6), 0.0)
    made.begin("next")
    assert made.steps_left == 0 and made.next_action(0, 0.0) is None
    assert made.offer(chunk(1, episode_id="next"), 0.0) is True


def test_a_queued_chunk_that_expires_is_not_started() -> None:
    made = playback()
    made.offer(chunk(expiry=1.0), 0.5)
    assert made.next_action(0, 1.01) is None
    assert made.steps_left == 0


def test_a_chunk_that_has_started_is_played_to_its_end() -> None:
    made = playback()
    made.offer(chunk(expiry=1.0), 0.5)
    action = made.next_action(0, 1.0)
    assert action is not None
    made.applied(action)
    assert made.next_action(1, 5.0) is not None


def test_flush_hands_back_what_was_played_and_drops_the_rest() -> None:
    made = playback()
    assert made.flush() is None
    made.offer(chunk(1), 0.0)
    play(made, 2)
    made.offer(chunk(2), 0.0)
    playing = made.flush()
    assert playing is not None and len(playing.applied) == 2 and playing.chunk.chunk_id == 1
    assert made.steps_left == 0 and made.next_action(2, 0.0) is None
    assert made.applied(np.zeros(8)) is None
