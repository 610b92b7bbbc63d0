"""Messages of an episode, in any order between topics, become the same arrays; what is missing is named."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from softflow_msgs.msg import EpisodeEvent, RewardLabel, SuccessVerdict

from softflow_node.messages import floats32
from softflow_recorder.episode import DISCARDED, START, TERMINATED, TRUNCATED, EpisodeAssembler, EpisodeError

sys.path.insert(0, str(Path(__file__).parent))

from recorder_toy import Published, Toy

TOY = Toy.make()


def assembler(messages: list[Published]) -> EpisodeAssembler:
    made = EpisodeAssembler(TOY.episode_id)
    for topic, message in messages:
        made.add(topic, message)
    return made


def test_the_kinds_are_those_of_the_message() -> None:
    kinds = (EpisodeEvent.START, EpisodeEvent.TERMINATED, EpisodeEvent.TRUNCATED, EpisodeEvent.DISCARDED)
    assert kinds == (START, TERMINATED, TRUNCATED, DISCARDED)


@settings(max_examples=30)
@given(st.permutations(TOY.messages()))
def test_any_order_gives_the_episode(messages: list[Published]) -> None:
    episode = assembler(messages).finish()
    np.testing.assert_array_equal(episode.states, TOY.states)
    np.testing.assert_array_equal(episode.actions, TOY.actions)
    np.testing.assert_array_equal(episode.rewards, TOY.rewards)
    assert episode.policy_versions.tolist() == [0, 0, 7, 7, 7] + [0] * 7
    assert (episode.source, episode.mode, episode.index, episode.seed) == ("teacher", "demo", 3, 11)
    assert episode.metrics == {"rotations_per_minute": 2.5, "steps": 12.0}
    assert episode.truncated and not episode.terminated and episode.success


def test_a_termination_is_told_from_a_truncation() -> None:
    episode = assembler(dataclasses.replace(TOY, kind=EpisodeEvent.TERMINATED).messages()).finish()
    assert episode.terminated and not episode.truncated


def test_repetitions_change_nothing() -> None:
    twice = [pair for pair in TOY.messages() for _ in range(2)]
    np.testing.assert_array_equal(assembler(twice).finish().states, TOY.states)


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        (lambda t, m: t == "episode_event" and m.kind != START, "the end of the episode"),
        (lambda t, m: t == "observation" and m.step == 0, r"observation of step 0 \(1 of 13 missing\)"),
        (lambda t, m: t == "observation" and m.step in (4, 12), r"observation of step 4 \(2 of 13 missing\)"),
        (lambda t, m: t == "reward_label" and m.start_step == 5, r"reward of step 5 \(7 of 12 missing\)"),
    ],
)
def test_what_is_missing_is_named(dropped: object, named: str) -> None:
    made = assembler([(t, m) for t, m in TOY.messages() if not dropped(t, m)])  # type: ignore[operator]
    with pytest.raises(EpisodeError, match=f"episode {TOY.episode_id}: missing {named}"):
        made.finish()


def test_where_a_classifier_judges_its_last_verdict_belongs_to_the_episode() -> None:
    made = assembler(TOY.messages())
    made.versions[TOY.steps - 1] = 7  # the result of the last chunk
    assert made.settled
    for step in range(TOY.steps + 1):
        made.add("success_verdict", SuccessVerdict(episode_id=TOY.episode_id, step=step, probability=0.5))
        assert made.settled == (step == TOY.steps)
    np.testing.assert_array_equal(made.finish().rewards, TOY.rewards)


def test_an_episode_without_its_start_event_is_complete() -> None:
    assert assembler(TOY.messages()[1:]).finish().steps == 12


def test_a_discarded_episode_is_refused_even_when_nothing_is_missing() -> None:
    made = assembler(dataclasses.replace(TOY, kind=EpisodeEvent.DISCARDED).messages())
    assert made.discarded and made.missing() == ""
    with pytest.raises(EpisodeError, match="discarded"):
        made.finish()


def test_an_episode_of_no_steps_is_refused() -> None:
    with pytest.raises(EpisodeError, match="0 steps, must have at least 1"):
        assembler(Toy.make(steps=0).messages()).finish()


@pytest.mark.parametrize("field", ["state", "applied_action"])
@pytest.mark.parametrize(("change", "named"), [("nan", "not finite"), ("short", "values, not")])
def test_bad_arrays_name_field_and_step(field: str, change: str, named: str) -> None:
    messages = TOY.messages()
    observation = next(m for t, m in messages if t == "observation" and m.step == 4)
    values = np.array(getattr(observation, field))
    values[1] = np.nan if change == "nan" else values[1]
    setattr(observation, field, floats32(values if change == "nan" else values[:-1]))
    with pytest.raises(EpisodeError, match=f"{field} of step 4 .*{named}"):
        assembler(messages).finish()


def test_a_reward_that_is_not_finite_is_refused() -> None:
    rewards = TOY.rewards.copy()
    rewards[3] = np.inf
    with pytest.raises(EpisodeError, match="reward is not finite"):
        assembler(dataclasses.replace(TOY, rewards=rewards).messages()).finish()


def label(start: int, value: float, revision: int) -> Published:
    values = floats32(np.full(3, value))
    return "reward_label", RewardLabel(
        episode_id=TOY.episode_id, start_step=start, values=values, revision=revision
    )


@given(st.permutations([label(2, 0.25, 1), label(3, 0.5, 2), label(0, 0.125, 1)]), st.booleans())
def test_of_several_labels_of_a_step_the_highest_revision_holds(
    labels: list[Published], labels_first: bool
) -> None:
    messages = [*labels, *TOY.messages()] if labels_first else [*TOY.messages(), *labels]
    rewards = assembler(messages).finish().rewards
    np.testing.assert_array_equal(rewards[3:6], 0.5)
    np.testing.assert_array_equal(rewards[:2], 0.125)
    np.testing.assert_array_equal(rewards[6:], TOY.rewards[6:])


def test_of_equal_revisions_the_later_holds() -> None:
    rewards = assembler([*TOY.messages(), label(0, 0.1, 1), label(0, 0.75, 1)]).finish().rewards
    np.testing.assert_array_equal(rewards[:3], 0.75)
