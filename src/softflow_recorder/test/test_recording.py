"""Recordings into bags: what is written about an episode, images, and a disk that is really full."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import ActionChunk, ChunkResult, EpisodeEvent, HandDescription, HandState

from softflow_node.messages import floats64, to_stamp
from softflow_recorder.bag import BagError, episode_bags, read_episode, read_information, read_messages
from softflow_recorder.disk import DiskWatch
from softflow_recorder.metadata import software_version
from softflow_recorder.recording import Options, Raw, Recordings, closed_episodes
from softflow_recorder.repair import Repaired, repair_all

sys.path.insert(0, str(Path(__file__).parent))

from recorder_toy import TYPESTORE, Published, Toy

OPTIONS = Options({"robot": "/hand0"}, 20_000, 0.05, False, 5.0)
CAMERA = "/hand0/wrist/image_raw/compressed"
Fill = Callable[[int], Path]


class Recorder:
    """Recordings without a node around them."""

    def __init__(self, directory: Path, min_free_mb: int = 0, finished: Iterable[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.disk = DiskWatch(directory, min_free_mb)
        self.closed: list[Path] = []
        self.warnings: list[str] = []
        self.told: list[tuple[str, str]] = []
        self.recordings = Recordings(
            directory,
            TYPESTORE,
            OPTIONS,
            self.disk,
            self.closed.append,
            self.warnings.append,
            finished,
            lambda episode, why: self.told.append((episode, why)),
        )

    def add(self, topic: str, message: Any) -> None:
        package = type(message).__module__.split(".")[0]
        full = topic if topic.startswith("/") else f"/hand0/{topic}"
        kind = f"{package}/msg/{type(message).__name__}"
        raw = Raw(full, kind, bytes(serialize_message(message)), message)
        if hasattr(message, "episode_id"):
            self.recordings.add(raw)
        else:
            self.recordings.add_shared(raw)

    def record(self, messages: list[Published], wait: float = 2.0) -> Path:
        for topic, message in messages:
            self.add(topic, message)
        self.recordings.poll(time.monotonic() + wait)  # what the last messages waited for has not come
        return self.closed[-1]


def description() -> HandDescription:
    return HandDescription(
        hand="palmdown4",
        backend="sim",
        joint_names=["a", "b"],
        lower=floats64(np.array([-0.5, 0.0])),
        upper=floats64(np.array([0.5, 1.5])),
        max_velocity=floats64(np.array([2.0, 3.0])),
        max_acceleration=floats64(np.array([20.0, 30.0])),
        neutral=floats64(np.zeros(2)),
        soft_current=floats64(np.ones(2)),
        max_current=floats64(np.full(2, 2.0)),
        action_names=["a", "b"],
        control_rate=20.0,
        calibration_hash="c0ffee",
    )


def result(toy: Toy, start: int, steps: int, **values: Any) -> Published:
    values = {"chunk_id": start + 1, "policy_version": 7, "source": "policy", **values}
    message = ChunkResult(episode_id=toy.episode_id, start_step=start, executed_steps=steps, **values)
    return "chunk_result", message


def test_it_says_once_when_no_step_is_waited_for_any_more(tmp_path: Path) -> None:
    """As soon as the steps are there; the bag stays open for the last chunk's result, which the next reset brings."""
    toy = Toy.make()
    recorder = Recorder(tmp_path / "bags")
    messages = toy.messages()
    for topic, message in messages[:-1]:
        recorder.add(topic, message)
    assert recorder.told == []
    recorder.add(*messages[-1])
    assert recorder.told == [(toy.episode_id, "")] and recorder.closed == []
    recorder.recordings.poll(time.monotonic() + 2.0)
    assert len(recorder.closed) == 1 and len(recorder.told) == 1


def test_it_says_what_is_missing_once_it_waits_no_longer(tmp_path: Path) -> None:
    toy = Toy.make()
    recorder = Recorder(tmp_path / "bags")
    for topic, message in toy.messages():
        if topic != "observation" or message.step != 5:
            recorder.add(topic, message)
    recorder.recordings.poll(time.monotonic() + 2.0)
    assert recorder.told == []
    recorder.recordings.poll(time.monotonic() + OPTIONS.completion_timeout + 1.0)
    [(episode, why)] = recorder.told
    assert episode == toy.episode_id and "missing observation of step 5" in why


def test_the_metadata_say_all_that_is_to_be_known_without_reading(tmp_path: Path) -> None:
    toy = Toy.make(mode="train")
    recorder = Recorder(tmp_path / "bags")
    recorder.add("hand_description", description())
    chunk = ActionChunk(episode_id=toy.episode_id, chunk_id=3, policy_version=7, policy_sha256="5ea1")
    messages = [("action_chunk", chunk), *toy.messages()]
    messages[-1:-1] = [result(toy, 10, 2)]
    bag = recorder.record(messages)
    custom = read_information(bag).custom
    said = {
        key: custom[key] for key in ("robot", "task", "layout_hash", "mode", "complete", "steps", "index")
    }
    assert said == {
        "robot": "/hand0",
        "task": "CubeRotation-v0",
        "layout_hash": toy.layout_hash,
        "mode": "train",
        "complete": "true",
        "steps": "12",
        "index": "3",
    }
    assert custom["calibration_hash"] == "c0ffee"
    hand = json.loads(custom["hand"])
    assert (hand["hand"], hand["lower"], hand["upper"]) == ("palmdown4", [-0.5, 0.0], [0.5, 1.5])
    assert json.loads(custom["policies"]) == {"7": "5ea1"}
    assert json.loads(custom["messages"])["/hand0/observation"] == 13
    assert json.loads(custom["missing_messages"]) == {"action_chunk": 1}
    assert any(topic.endswith("/hand_description") for topic, _, _ in read_messages(bag))


def test_the_software_version_names_no_machine() -> None:
    version = software_version()
    assert version.startswith("0.1.0") and "/" not in version and os.uname().nodename not in version


def test_gaps_are_counted_by_topic(tmp_path: Path) -> None:
    toy = Toy.make()
    states = [("hand_state", HandState(episode_id=toy.episode_id, step=step)) for step in (0, 1, 1, 4, 3, 5)]
    recorder = Recorder(tmp_path / "bags")
    gone = [(t, m) for t, m in toy.messages() if t != "observation" or m.step not in (2, 7)]
    for topic, message in [*states, *gone]:
        recorder.add(topic, message)
    recorder.recordings.close()
    missing = json.loads(read_information(recorder.closed[0]).custom["missing_messages"])
    assert missing == {"hand_state": 2, "observation": 2}
    assert recorder.recordings.counters["missing_observation"] == 2
    assert (
        recorder.recordings.counters["incomplete_episodes"] == 1
        and "observation of step 2" in recorder.warnings[0]
    )


def test_steps_that_a_human_applied_are_told_apart(tmp_path: Path) -> None:
    toy = Toy.make()
    human = [result(toy, 4, 3, source="teleop", policy_version=0), result(toy, 10, 2)]
    bag = Recorder(tmp_path / "bags").record([*human, *toy.messages()])
    assert np.flatnonzero(read_episode(bag).interventions).tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["teleop", "policy", "teleop"], "policy"),
        (["teacher", "teleop"], "teacher"),
        (["teleop", "teleop"], "teleop"),
    ],
)
def test_an_episode_is_a_humans_if_nobody_else_planned_in_it(
    sources: list[str], expected: str, tmp_path: Path
) -> None:
    toy = Toy.make()
    chunks = [
        ("action_chunk", ActionChunk(episode_id=toy.episode_id, chunk_id=i, obs_step=i, source=source))
        for i, source in enumerate(sources)
    ]
    others = [m for m in toy.messages() if m[0] != "action_chunk"]
    assert read_episode(Recorder(tmp_path / "bags").record([*chunks, *others])).source == expected


def image(stamp: int, data: bytes) -> Published:
    message = CompressedImage(format="jpeg", data=data)
    message.header.stamp = to_stamp(stamp)
    return CAMERA, message


def pictured(toy: Toy, named: dict[int, int] | None = None) -> list[Published]:
    """The messages of an episode at 20 Hz from second 1 on; step -> stamp of the image that its observation names."""
    messages = [*toy.messages(), result(toy, 10, 2)]
    for topic, message in messages:
        if topic == "observation":
            message.header.stamp = to_stamp(10**9 + message.step * 50_000_000)
            wanted = (named or {}).get(message.step)
            message.images = [f"{CAMERA}@{wanted}"] if wanted else []
    return messages


def test_each_state_has_the_newest_image_that_is_not_newer(tmp_path: Path) -> None:
    toy, recorder = Toy.make(), Recorder(tmp_path / "bags")
    early = image(990_000_000, b"early")
    at_3 = 10**9 + 150_000_000
    others = [image(at_3, b"three"), image(at_3 + 60_000_000, b"later"), image(10**10, b"after")]
    bag = recorder.record([early, *pictured(toy)[:3], *others, *pictured(toy)[3:]])
    images = read_episode(bag).images
    assert list(images) == ["wrist"]
    assert images["wrist"] == (b"early",) * 3 + (b"three",) * 2 + (b"later",) * 8
    assert len({id(data) for data in images["wrist"]}) == 3, "bytes are kept once"


def test_an_observation_may_name_its_image(tmp_path: Path) -> None:
    toy, recorder = Toy.make(), Recorder(tmp_path / "bags")
    pictures = [image(900_000_000, b"old"), image(1_000_000_000, b"new"), image(1_010_000_000, b"newer")]
    messages = pictured(toy, {0: 900_000_000, 1: 1_000_000_000, 2: 900_000_000})
    bag = recorder.record([*messages[:1], *pictures, *messages[1:]])
    assert read_episode(bag).images["wrist"][:4] == (b"old", b"new", b"old", b"newer")


def test_an_episode_that_lacks_an_image_which_it_names_is_incomplete(tmp_path: Path) -> None:
    """Another image in its place would be learned from. Its beginning is as good as that of one that was cut off."""
    toy, recorder = Toy.make(), Recorder(tmp_path / "bags")
    messages = pictured(toy, {0: 900_000_000, 1: 1_000_000_000, 4: 5})
    pictures = [image(900_000_000, b"old"), image(1_000_000_000, b"new")]
    bag = recorder.record([*messages[:1], *pictures, *messages[1:]], wait=60.0)
    with pytest.raises(BagError, match="missing image that the observation of step 4 names"):
        read_episode(bag)
    assert read_information(bag).custom["complete"] == "false"
    part = read_episode(bag, recovered=True)
    assert part.steps == 3 and part.images["wrist"] == (b"old", b"new", b"new", b"new")


def test_an_image_that_comes_again_is_written_once(tmp_path: Path) -> None:
    toy, recorder = Toy.make(), Recorder(tmp_path / "bags")
    messages = pictured(toy)
    bag = recorder.record([image(1, b"one"), messages[0], *[image(1, b"one")] * 5, *messages[1:]])
    assert [topic for topic, _, _ in read_messages(bag)].count(CAMERA) == 1


def test_a_state_before_the_first_image_makes_the_episode_incomplete(tmp_path: Path) -> None:
    toy, recorder = Toy.make(), Recorder(tmp_path / "bags")
    messages = pictured(toy)
    bag = recorder.record([*messages[:4], image(10**9 + 1, b"late"), *messages[4:]])
    with pytest.raises(BagError, match=f"image of {CAMERA} for step 0"):
        read_episode(bag)
    assert read_information(bag).custom["complete"] == "false"


def test_a_full_disk_ends_the_episode_and_keeps_all_of_it(small_disk: Path, fill: Fill) -> None:
    toy = Toy.make(steps=400, mode="train")
    recorder = Recorder(small_disk / "bags")
    filler = fill(90_000)
    sent = 0
    # Rewards first: each observation is then a usable step.
    for topic, message in sorted(toy.messages(), key=lambda pair: pair[0] != "reward_label"):
        if recorder.disk.why:
            break
        if topic != "episode_event" or message.kind == 0:
            recorder.add(topic, message)
            sent += topic == "observation"
    assert "No space left" in recorder.disk.why and 100 < sent < 400
    recorder.recordings.poll(time.monotonic())
    assert not recorder.recordings.open and recorder.closed == [], "there is no room to close it"
    recorder.add("episode_event", Toy.make(episode_id="next").messages()[0][1])
    assert recorder.recordings.counters["unrecorded_episodes"] == 1
    filler.unlink()
    recorder.recordings.poll(time.monotonic() + 2.0)
    assert recorder.disk.why, "only somebody may let it go on"
    (bag,) = recorder.closed
    episode = read_episode(bag, recovered=True)
    assert episode.steps == sent - 1 and episode.cause == "recovered"
    np.testing.assert_array_equal(episode.states, toy.states[:sent])
    custom = read_information(bag).custom
    assert custom["recovered"] == "true" and "No space left" in custom["recovery"]
    assert recorder.disk.resume() and not recorder.disk.why
    after = Toy.make(seed=2, episode_id="after")
    whole = recorder.record([result(after, 10, 2), *after.messages()])
    assert whole != bag and read_episode(whole).steps == after.steps


def test_a_process_that_dies_on_a_full_disk_leaves_a_sound_beginning(
    small_disk: Path, fill: Fill, tmp_path: Path
) -> None:
    recorder = Recorder(small_disk / "bags")
    filler = fill(90_000)
    toy = Toy.make(steps=400)
    for topic, message in toy.messages()[:-1]:
        recorder.add(topic, message)
    assert recorder.disk.why
    for recording in recorder.recordings.open.values():
        recording.bag.abandon()
    (bag,) = episode_bags(small_disk / "bags")
    (failed,) = repair_all(small_disk / "bags")
    assert isinstance(failed, OSError) and list(bag.glob("*.mcap")), "no room to repair: the original stays"
    filler.unlink()
    (done,) = repair_all(small_disk / "bags")
    assert isinstance(done, Repaired) and done.kept is None and done.messages > 100
    states = [m.state for t, _, m in read_messages(bag) if t.endswith("observation")]
    np.testing.assert_array_equal(states, toy.states[: len(states)])


def test_below_the_reserve_nothing_begins_and_what_runs_ends_readably(small_disk: Path, fill: Fill) -> None:
    toy = Toy.make(mode="train")
    recorder = Recorder(small_disk / "bags", min_free_mb=1)
    for topic, message in toy.messages()[:10]:
        recorder.add(topic, message)
    filler = fill(600_000)
    recorder.recordings.poll(time.monotonic())
    assert "min_free_mb is 1" in recorder.disk.why and len(recorder.closed) == 1
    assert "min_free_mb" in read_information(recorder.closed[0]).custom["recovery"]
    assert not recorder.disk.resume()
    filler.unlink()
    assert recorder.disk.resume()
    after = Toy.make(seed=3, episode_id="after")
    assert read_episode(recorder.record([result(after, 10, 2), *after.messages()])).steps == 12


def test_a_directory_that_has_gone_stops_as_a_full_disk_does(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "bags")
    (tmp_path / "bags").rmdir()
    recorder.recordings.poll(time.monotonic())
    assert "No such file" in recorder.disk.why and not recorder.disk.resume()
    (tmp_path / "bags").mkdir()
    assert recorder.disk.resume() and not recorder.disk.why


def test_what_comes_again_of_a_closed_episode_makes_no_bag_and_the_rest_of_one_that_was_cut_off_does(
    tmp_path: Path,
) -> None:
    recorder = Recorder(tmp_path / "bags")
    recorder.record(Toy.make(episode_id="whole").messages())
    cut = Toy.make(episode_id="cutoff")
    for topic, message in cut.messages()[:8]:
        recorder.add(topic, message)
    # As a killed process leaves it.
    for recording in recorder.recordings.open.values():
        recording.bag.abandon()
    assert [type(done) for done in repair_all(tmp_path / "bags")] == [Repaired]
    assert closed_episodes(tmp_path / "bags", 100) == {"whole"}
    again = Recorder(tmp_path / "bags", finished=closed_episodes(tmp_path / "bags", 100))
    again.add("episode_event", Toy.make(episode_id="whole").event(EpisodeEvent.START))
    again.add("episode_event", cut.event(EpisodeEvent.START))
    assert list(again.recordings.open) == ["cutoff"]
