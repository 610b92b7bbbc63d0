"""Bags: round trip, readable by others without this package, and damage that is named."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from std_msgs.msg import String

from softflow_recorder.bag import (
    BagError,
    BagWriter,
    episode_bags,
    read_episode,
    read_information,
    read_messages,
    read_summary,
)

sys.path.insert(0, str(Path(__file__).parent))

from recorder_toy import TYPESTORE, Toy

TOY = Toy.make()


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return TOY.write(tmp_path / "bags" / "one")


def mcap_of(bag: Path) -> Path:
    (file,) = bag.glob("*.mcap")
    return file


def test_an_episode_comes_back_as_it_was_written(bag: Path) -> None:
    episode = read_episode(bag)
    np.testing.assert_array_equal(episode.states, TOY.states)
    np.testing.assert_array_equal(episode.actions, TOY.actions)
    np.testing.assert_array_equal(episode.rewards, TOY.rewards)
    assert episode.layout_hash == TOY.layout_hash and episode.episode_id == TOY.episode_id
    assert episode.policy_versions.tolist() == [0, 0, 7, 7, 7] + [0] * 7


def test_other_episodes_in_a_bag_are_left_out(tmp_path: Path) -> None:
    other = Toy.make(seed=1, episode_id="other").messages()
    path = TOY.write(tmp_path / "bag", [*TOY.messages(), *other])
    np.testing.assert_array_equal(read_episode(path).states, TOY.states)


def test_the_bytes_are_stored_unchanged_and_in_order(tmp_path: Path) -> None:
    sent = [(f"/hand0/{t}", type(m).__name__, bytes(serialize_message(m))) for t, m in TOY.messages()]
    writer = BagWriter(tmp_path / "bag", TYPESTORE, {})
    for stamp, (topic, kind, data) in enumerate(sent):
        writer.write(topic, f"softflow_msgs/msg/{kind}", stamp, data)
    writer.close()
    with mcap_of(tmp_path / "bag").open("rb") as file:
        stored = [(c.topic, m.data) for _, c, m in make_reader(file, validate_crcs=True).iter_messages()]
    assert stored == [(topic, data) for topic, _, data in sent]


def test_bytes_that_a_failed_sync_has_lost_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the kernel tells once: the next sync succeeds, though the pages have gone."""
    writer = BagWriter(tmp_path / "bag", TYPESTORE, {})
    before = mcap_of(writer.path).stat().st_size

    def lose(file: int) -> None:
        os.pwrite(file, bytes(os.fstat(file).st_size - before), before)
        raise OSError(5, "Input/output error")

    for stamp in range(5):
        writer.write("/text", "std_msgs/msg/String", stamp, bytes(serialize_message(String(data=f"{stamp}"))))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lose)
        with pytest.raises(OSError, match="Input/output error"):
            writer.flush()
    writer.close()
    assert [message.data for _, _, message in read_messages(writer.path)] == [str(n) for n in range(5)]


def test_mcap_holds_the_message_definitions(bag: Path) -> None:
    with mcap_of(bag).open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    schemas = {schema.name: schema for schema in summary.schemas.values()}
    assert schemas["softflow_msgs/msg/Observation"].encoding == "ros2msg"
    assert "float32[] applied_action" in schemas["softflow_msgs/msg/Observation"].data.decode()
    assert all(channel.message_encoding == "cdr" for channel in summary.channels.values())


def test_a_reader_that_has_never_heard_of_softflow_understands_it(bag: Path) -> None:
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        wanted = [c for c in reader.connections if c.topic == "/hand0/observation"]
        messages = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(wanted)]
    np.testing.assert_array_equal([m.state for m in messages], TOY.states)
    assert [m.step for m in messages] == list(range(13))


def write_without(path: Path, kind: str, field: str) -> Path:
    """The toy's bag as a release wrote it whose messages of a kind did not have a field."""
    name = f"softflow_msgs/msg/{kind}"
    definition, _ = TYPESTORE.generate_msgdef(name, ros_version=2)
    lines = definition.splitlines(keepends=True)
    store = get_typestore(Stores.ROS2_JAZZY)
    shorter = "".join(line for line in lines if line.split()[1:2] != [field])
    store.register(get_types_from_msg(shorter, name))
    assert field in {f for f, _ in TYPESTORE.fielddefs[name][1]} - {f for f, _ in store.fielddefs[name][1]}
    for other, fields in TYPESTORE.fielddefs.items():
        if other not in store.fielddefs:
            store.register({other: fields})
    writer = BagWriter(path, store, {})
    for stamp, (topic, message) in enumerate(TOY.messages()):
        data, its_name = bytes(serialize_message(message)), f"softflow_msgs/msg/{type(message).__name__}"
        if its_name == name:
            new = TYPESTORE.deserialize_cdr(data, name)
            values = {f: getattr(new, f) for f, _ in store.fielddefs[name][1]}
            data = bytes(store.serialize_cdr(store.types[name](**values), name))
        writer.write(f"/hand0/{topic}", its_name, stamp, data)
    writer.close()
    return path


def test_a_bag_of_the_first_release_is_read(tmp_path: Path) -> None:
    episode = read_episode(write_without(tmp_path / "bag", "ChunkResult", "source"))
    np.testing.assert_array_equal(episode.states, TOY.states)
    assert not episode.interventions.any()


def test_a_bag_with_definitions_that_lack_what_is_needed_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_without(tmp_path / "bag", "Observation", "applied_action")
    with pytest.raises(BagError, match=r"/hand0/observation has another definition.*applied_action"):
        read_episode(path)


def test_metadata_are_those_of_rosbag2(bag: Path) -> None:
    about = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert about["version"] == 9 and about["storage_identifier"] == "mcap"
    assert about["relative_file_paths"] == [mcap_of(bag).name]
    assert about["message_count"] == len(TOY.messages())
    counts = {t["topic_metadata"]["name"]: t["message_count"] for t in about["topics_with_message_count"]}
    assert counts == {topic: count for topic, _, count in read_information(bag).topics}
    assert counts["/hand0/observation"] == 13 and counts["/hand0/reward_label"] == 2
    assert all(
        t["topic_metadata"]["type_description_hash"].startswith("RIHS01_")
        for t in about["topics_with_message_count"]
    )


def test_summary_says_what_the_recorder_wrote(bag: Path) -> None:
    summary = read_summary(bag)
    assert summary is not None
    assert summary.complete and summary.success and summary.steps == 12
    assert (summary.mode, summary.source) == ("demo", "teacher")
    assert summary.metrics["rotations_per_minute"] == 2.5


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_bag_is_an_error_that_names_it(bag: Path, keep: float) -> None:
    file = mcap_of(bag)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BagError, match=f"{bag}: damaged or truncated"):
        read_episode(bag)


@pytest.mark.parametrize("spot", [0, 8, -1])
def test_a_damaged_frame_is_an_error_that_names_the_bag(bag: Path, spot: int) -> None:
    file = mcap_of(bag)
    data = bytearray(file.read_bytes())
    data[spot] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(BagError, match=str(bag)):
        read_episode(bag)


def test_a_bag_without_its_data_file_is_an_error(bag: Path) -> None:
    mcap_of(bag).unlink()
    with pytest.raises(BagError, match=str(bag)):
        read_episode(bag)


def test_a_bag_that_was_never_closed_is_an_error_and_has_no_summary(bag: Path) -> None:
    (bag / "metadata.yaml").unlink()
    for read in (read_episode, read_information):
        with pytest.raises(BagError, match=f"{bag}: metadata.yaml is missing"):
            read(bag)
    assert read_summary(bag) is None


@pytest.mark.parametrize("text", ["", "rosbag2_bagfile_information: {}", "a: [", "- 1"])
def test_damaged_metadata_are_an_error(bag: Path, text: str) -> None:
    (bag / "metadata.yaml").write_text(text)
    for read in (read_episode, read_information, read_summary):
        with pytest.raises(BagError, match=str(bag)):
            read(bag)


def test_a_foreign_bag_is_an_error(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "foreign", TYPESTORE, {})
    writer.write("/chatter", "std_msgs/msg/String", 1, bytes(serialize_message(String(data="hello"))))
    writer.close()
    assert [m.data for _, _, m in read_messages(tmp_path / "foreign")] == ["hello"]
    with pytest.raises(BagError, match="foreign: holds no episode"):
        read_episode(tmp_path / "foreign")
    with pytest.raises(BagError, match="foreign: not a softflow bag"):
        read_summary(tmp_path / "foreign")


def test_an_incomplete_episode_is_an_error_that_says_what_is_missing(tmp_path: Path) -> None:
    path = TOY.write(tmp_path / "bag", [(t, m) for t, m in TOY.messages() if t != "reward_label"])
    with pytest.raises(BagError, match=r"bag: episode 0123abcd: missing reward of step 0 \(12 of 12"):
        read_episode(path)


def test_episode_bags_are_found_by_name_closed_or_not(bag: Path) -> None:
    folder = bag.parent
    shutil.copytree(bag, folder / "a_later_name")
    TOY.write(folder / "unclosed")
    (folder / "unclosed" / "metadata.yaml").unlink()
    (folder / "not_a_bag").mkdir()
    assert [p.name for p in episode_bags(folder)] == ["a_later_name", "one", "unclosed"]
