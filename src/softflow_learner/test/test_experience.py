"""Experience into the replay: from the recorder's payloads and from bags. Bad ones are named and left out."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from softflow_msgs.msg import EpisodeEvent, EpisodeSegment, ExperienceItem, PolicyManifest

from softflow_learner.bags import load_bags
from softflow_learner.journal import About, Journal
from softflow_learner.messages import add_label, add_payload, canary_part, from_item, to_manifest
from softflow_learner.replay import Replay
from softflow_learner.shelf import Offer, Shelf
from softflow_policy.versions import State
from softflow_policy.weights import WeightsInfo
from softflow_recorder.bag import read_episode
from softflow_recorder.labelling import label_bag
from softflow_recorder.labels import Label
from softflow_recorder.messages import ITEM_BYTES, pieces, to_item, to_label_payload, to_payloads
from softflow_recorder.spool import Spool

sys.path.insert(0, str(Path(__file__).parents[2] / "softflow_recorder" / "test"))

from recorder_toy import TASK, Toy

HASH = TASK.layout.hash


def replay() -> Replay:
    return Replay(34, 8, horizon=3, gamma=0.9)


@pytest.fixture
def payload(tmp_path: Path) -> bytes:
    (payload,) = to_payloads("/hand0", read_episode(Toy.make(mode="train").write(tmp_path / "bag")))
    return payload


def changed(payload: bytes, **values: Any) -> bytes:
    segment = deserialize_message(payload, EpisodeSegment)
    for name, value in values.items():
        setattr(segment, name, value)
    return bytes(serialize_message(segment))


def test_an_episode_comes_from_bag_over_spool_and_journal_into_the_replay_unchanged(
    payload: bytes, tmp_path: Path
) -> None:
    spool, journal, into = Spool(tmp_path / "spool"), Journal(tmp_path / "journal"), replay()
    item = to_item("/hand0", spool.boot, spool.append(payload))
    for _ in range(2):  # the answer was lost, so the recorder sends it again
        journal.add([from_item(item)])
    spool.acknowledge(journal.acknowledged("/hand0", spool.boot))
    assert [add_payload(into, stored.payload, HASH) for stored in journal.stored()] == [12]
    assert spool.pending(1) == []
    toy = Toy.make()
    np.testing.assert_array_equal(into.states(), toy.states[:-1])
    batch = into.windows(np.array([0]))
    np.testing.assert_array_equal(batch.actions[0], toy.actions[:3])
    assert float(batch.returns[0]) == pytest.approx(float(toy.rewards[:3] @ [1, 0.9, 0.81]), abs=1e-6)


def test_steps_of_the_policy_are_online_and_of_the_teacher_offline(payload: bytes) -> None:
    into = replay()
    add_payload(into, payload, HASH)
    add_payload(into, changed(payload, source="policy", episode_id="other"), HASH)
    assert into.size("offline") == into.size("online") == into.online_steps == 12


def unplanned(**values: Any) -> tuple[Toy, list[Any]]:
    """An episode to which no policy came, and its messages."""
    toy = Toy.make(**values)
    return toy, [m for m in toy.messages() if m[0] not in ("action_chunk", "chunk_result")]


def test_an_episode_in_which_nobody_planned_is_online_and_not_imitated(tmp_path: Path) -> None:
    toy, messages = unplanned(mode="train")
    (payload,) = to_payloads("/hand0", read_episode(toy.write(tmp_path / "bag", messages)))
    into = replay()
    add_payload(into, payload, HASH)
    assert (into.size("online"), into.size("offline"), into.online_steps) == (12, 0, 12)
    assert not into.sample(20, 0.5, np.random.default_rng(0)).imitable.any()


def test_a_human_who_took_the_hand_is_imitated_whoever_else_was_there(payload: bytes) -> None:
    """All of an episode, or some steps of one in which nobody planned."""
    whole, some = [True] * 12, [False] * 4 + [True] * 8
    into = replay()
    add_payload(into, changed(payload, source="teleop", interventions=whole), HASH)
    assert into.size("offline") == 12 and into.windows(np.arange(12)).imitable.all()
    add_payload(into, changed(payload, source="", interventions=some, episode_id="other"), HASH)
    assert into.size("online") == 12 and into.sampleable("offline") == 12 + 8
    np.testing.assert_array_equal(into.windows(np.arange(12, 24)).imitable, np.arange(12) >= 4)


def test_a_demonstration_in_which_nobody_planned_is_refused_by_name(tmp_path: Path) -> None:
    Toy.make(seed=1, episode_id="a").write(tmp_path / "1-good")
    toy, messages = unplanned(seed=2, episode_id="b")
    toy.write(tmp_path / "2-nobody", messages)
    into = replay()
    added, (line,) = load_bags(into, tmp_path, HASH)
    assert (added, into.size()) == (1, 12)
    assert "2-nobody: source is '', must be who acted: nobody planned in the episode" in line


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"layout_hash": "other"}, f"layout_hash is 'other', this learner's task has '{HASH}'"),
        ({"steps": 13}, r"states has 442 values, must have 476"),
        ({"state_dim": 33}, r"states has 442 values, must have 429"),
        ({"action_dim": 9}, r"actions has 96 values, must have 108"),
        ({"rewards": array("f", [0.0] * 11)}, r"rewards has 11 values, must have 12"),
        ({"rewards": array("f", [np.nan] * 12)}, r"reward"),
        ({"start_step": 5}, r"start"),
    ],
)
def test_a_payload_that_does_not_fit_is_named_and_nothing_is_stored(
    payload: bytes, values: dict[str, Any], named: str
) -> None:
    into = replay()
    with pytest.raises(ValueError, match=named):
        add_payload(into, changed(payload, **values), HASH)
    assert into.size() == 0
    assert add_payload(into, payload, HASH) == 12


@pytest.mark.parametrize("kept", [0, 3, 40, 500])
def test_bytes_that_are_no_segment_are_a_value_error(payload: bytes, kept: int) -> None:
    into = replay()
    with pytest.raises(ValueError, match="segment"):
        add_payload(into, payload[:kept], HASH)
    assert into.size() == 0


def test_load_bags_skips_what_is_damaged_or_foreign_and_says_so(tmp_path: Path) -> None:
    Toy.make(seed=1, episode_id="a").write(tmp_path / "1-good")
    broken = Toy.make(seed=2, episode_id="b").write(tmp_path / "2-truncated")
    (file,) = broken.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-500])
    Toy.make(seed=3, episode_id="c", layout_hash="old").write(tmp_path / "3-old")
    Toy.make(seed=4, episode_id="d", kind=EpisodeEvent.DISCARDED).write(tmp_path / "4-discarded")
    Toy.make(seed=5, episode_id="e", steps=7).write(tmp_path / "5-good")
    into = replay()
    added, refused = load_bags(into, tmp_path, HASH)
    assert (added, into.size("offline"), len(refused)) == (2, 19, 3)
    assert "2-truncated" in refused[0] and "truncated" in refused[0]
    assert "3-old" in refused[1] and "'old'" in refused[1] and HASH in refused[1]
    assert "4-discarded" in refused[2]


def test_failed_demonstrations_can_be_for_the_critic_alone(tmp_path: Path) -> None:
    Toy.make(seed=1, episode_id="a", success=True).write(tmp_path / "1")
    Toy.make(seed=2, episode_id="b", steps=7, success=False).write(tmp_path / "2")
    into = replay()
    assert load_bags(into, tmp_path, HASH, successful_only=True) == (1, [])
    assert (into.size("offline"), into.size("failed")) == (12, 7)
    everything = replay()
    assert load_bags(everything, tmp_path, HASH) == (2, [])
    assert (everything.size("offline"), everything.size("failed")) == (19, 0)
    with pytest.raises(ValueError, match="holds no successful episode"):
        load_bags(replay(), tmp_path / "2", HASH, successful_only=True)


@pytest.mark.parametrize("success", [False, True])
def test_what_a_human_says_of_a_success_goes_before_what_the_task_says(tmp_path: Path, success: bool) -> None:
    """The last of several labels counts; other steps' and other sources' say nothing of it."""
    for name, start, values, source in (
        ("turned", 11, [1.0 - success], "human"),
        ("praised", 3, [1.0 - success], "human"),
        ("judged", 11, [1.0 - success], "classifier"),
    ):
        bag = Toy.make(len(name), episode_id=name, success=success).write(tmp_path / name)
        label_bag(bag, 11, [float(success)], "human" if name == "turned" else "task", 1.0)
        label_bag(bag, start, values, source, 1.0)
    Toy.make(1, episode_id="more", success=True).write(tmp_path / "more")
    into = replay()
    load_bags(into, tmp_path, HASH, successful_only=True)
    told, other = ("offline", "failed") if success else ("failed", "offline")
    found = {name: into.episode(name).partition for name in into.episodes()}
    assert found == {"turned": other, "praised": told, "judged": told, "more": "offline"}


def test_the_same_episode_in_two_bags_is_learned_once(tmp_path: Path) -> None:
    for name in ("1", "2"):
        Toy.make().write(tmp_path / name)
    into = replay()
    assert load_bags(into, tmp_path, HASH)[0] == 1 and into.size() == 12


def test_a_directory_without_a_usable_bag_is_an_error_that_gives_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no usable episode$"):
        load_bags(replay(), tmp_path, HASH)
    Toy.make(layout_hash="old").write(tmp_path / "old")
    with pytest.raises(ValueError, match=r"holds no usable episode .*layout_hash is 'old'"):
        load_bags(replay(), tmp_path, HASH)


def test_a_drop_and_a_time_out_bootstrap_differently(tmp_path: Path) -> None:
    for kind, discount in ((EpisodeEvent.TERMINATED, 0.0), (EpisodeEvent.TRUNCATED, 0.9**3)):
        toy = dataclasses.replace(Toy.make(), kind=kind)
        toy.write(tmp_path / str(kind) / "bag")
        into = replay()
        load_bags(into, tmp_path / str(kind), HASH)
        assert float(into.windows(np.array([9])).discounts[0]) == pytest.approx(discount)


def test_a_manifest_says_what_is_on_offer(tmp_path: Path) -> None:
    info = WeightsInfo(version=4, parent=3, gradient_step=99, stage="online", best_of=8, layout_hash=HASH)
    shelf = Shelf(tmp_path)
    shelf.put(Offer(info, b"12345", "sha", "spec"), State.CANDIDATE, "on trial")
    manifest = to_manifest(shelf.entries[4])
    assert (manifest.version, manifest.parent, manifest.size, manifest.sha256) == (4, 3, 5, "sha")
    assert (manifest.spec_hash, manifest.layout_hash, manifest.stage) == ("spec", HASH, "online")
    assert manifest.gradient_step == 99 and manifest.reason == "on trial"
    assert manifest.state == PolicyManifest.CANDIDATE


def test_a_canary_sees_what_the_replay_sees(payload: bytes) -> None:
    part = canary_part(payload)
    toy = Toy.make()
    assert part.versions == [0, 0, 7, 7, 7] + [0] * 7 and part.start_step == 0
    assert part.rewards == pytest.approx(toy.rewards.tolist()) and part.final and not part.intervened
    assert canary_part(changed(payload, interventions=[False] * 11 + [True])).intervened


def test_states_have_the_numbers_of_the_message() -> None:
    assert {s.name: s.value for s in State} == {s.name: getattr(PolicyManifest, s.name) for s in State}


def test_images_travel_with_the_segments_that_their_states_belong_to(tmp_path: Path) -> None:
    episode = read_episode(Toy.make(mode="train", steps=20).write(tmp_path / "bag"))
    rng = np.random.default_rng(0)
    tracks = {
        "wrist": tuple(b"\xff\xd8\xff" + rng.bytes(int(rng.integers(100_000, 200_000))) for _ in range(21)),
        "top": tuple(b"\x89PNG" + bytes([i]) * 1000 for i in range(21)),
    }
    payloads = to_payloads("/hand0", dataclasses.replace(episode, images=tracks))
    segments: list[EpisodeSegment] = [deserialize_message(p, EpisodeSegment) for p in payloads]
    assert len(segments) > 2 and max(map(len, payloads)) <= ITEM_BYTES
    into, step = replay(), 0
    for segment, one in zip(segments, payloads, strict=True):
        last = segment is segments[-1]
        assert (segment.start_step, segment.final, segment.truncated, segment.success) == (
            step,
            last,
            last,
            last,
        )
        assert bool(segment.metric_names) is last and not segment.terminated
        for sequence in segment.images:
            ends = [0, *sequence.ends]
            images = [bytes(sequence.data[a:b]) for a, b in itertools.pairwise(ends)]
            assert tuple(images) == tracks[sequence.camera][step : step + segment.steps + 1]
        assert {s.camera: s.encoding for s in segment.images} == {"wrist": "jpeg", "top": "png"}
        step += add_payload(into, one, HASH)
    assert step == 20
    np.testing.assert_array_equal(into.states(), episode.states[:-1])
    np.testing.assert_array_equal(into.windows(np.arange(18)).actions[:, 0], episode.actions[:18])


def test_one_step_that_is_larger_than_an_item_goes_alone(tmp_path: Path) -> None:
    episode = read_episode(Toy.make(mode="train", steps=3).write(tmp_path / "bag"))
    tracks = {"wrist": tuple(bytes(ITEM_BYTES) for _ in range(4))}
    assert pieces(dataclasses.replace(episode, images=tracks), ITEM_BYTES) == [(0, 1), (1, 2), (2, 3)]


def test_a_label_is_known_by_revision_and_one_that_cannot_be_used_is_named(payload: bytes) -> None:
    label = to_label_payload("0123abcd", Label(2, 3, (0.5, 0.25), "human", 1.0, 0))
    message = ExperienceItem(robot="/hand0", boot="b", seq=1, kind=ExperienceItem.LABEL)
    message.payload = array("B", label)
    assert from_item(message).about == About("0123abcd", 2, 0)
    message.kind, message.payload = ExperienceItem.SEGMENT, array("B", payload)
    assert from_item(message).about == About("0123abcd", 0, 12)
    message.payload = array("B", payload[:40])
    assert from_item(message).about is None
    for bad, named in ((label[:3], "is not a reward label"), (label, "0123abcd")):
        with pytest.raises(ValueError, match=named):
            add_label(replay(), bad)
