"""A killed writer, a file that ends anywhere, a bit that flips: a true prefix, or an error that names the bag."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.records import Message
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader

from softflow_recorder.bag import (
    BagError,
    BagWriter,
    episode_bags,
    read_episode,
    read_information,
    read_messages,
    read_summary,
)
from softflow_recorder.episode import EpisodeData
from softflow_recorder.labelling import label_bag
from softflow_recorder.mcap_file import SoundPrefix, fault_of
from softflow_recorder.repair import BagBusyError, Repaired, repair, repair_all

sys.path.insert(0, str(Path(__file__).parent))

from recorder_toy import TYPESTORE, Toy

TOY = Toy.make(steps=60, mode="train")
FLUSH = 4000
"""[bytes] so that the bag has many chunks"""


def sent() -> list[tuple[str, str, bytes]]:
    """(topic, type, bytes) in a recorder's order: rewards come every 10 steps."""
    published, rewards = TOY.messages(), []
    for start in range(0, TOY.steps, 10):
        label = next(m for t, m in published if t == "reward_label")
        values = TOY.rewards[start : start + 10]
        rewards.append(type(label)(episode_id=TOY.episode_id, start_step=start, values=values.tolist()))
    ordered = []
    for topic, message in published:
        if topic == "reward_label":
            continue
        if topic == "episode_event" and message.kind:
            ordered.append(("reward_label", rewards[-1]))
        ordered.append((topic, message))
        if topic == "observation" and message.step % 10 == 0 and 0 < message.step < TOY.steps:
            ordered.append(("reward_label", rewards[message.step // 10 - 1]))
    return [
        (f"/hand0/{t}", f"softflow_msgs/msg/{type(m).__name__}", bytes(serialize_message(m)))
        for t, m in ordered
    ]


SENT = sent()


def write(path: Path, count: int = len(SENT), **options: int) -> BagWriter:
    writer = BagWriter(path, TYPESTORE, {"robot": "/hand0", "episode_id": TOY.episode_id}, **options)
    for stamp, (topic, kind, data) in enumerate(SENT[:count], start=1):
        writer.write(topic, kind, stamp, data)
    return writer


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("closed") / "bag"
    writer = write(path, flush_bytes=FLUSH, sync=False)
    writer.set_custom({"complete": "true", "steps": str(TOY.steps)})
    writer.close()
    return path


def raw(path: Path) -> list[tuple[str, bytes]]:
    with Reader(path) as reader:
        return [(connection.topic, bytes(data)) for connection, _, data in reader.messages()]


def open_copy(path: Path, data: bytes) -> Path:
    """A bag that was left open with these bytes."""
    path.mkdir()
    (path / f"{path.name}.mcap").write_bytes(data)
    return path


def holds_the_beginning(episode: EpisodeData) -> None:
    n = episode.steps
    np.testing.assert_array_equal(episode.states, TOY.states[: n + 1])
    np.testing.assert_array_equal(episode.actions, TOY.actions[:n])
    np.testing.assert_array_equal(episode.rewards, TOY.rewards[:n])
    if n < TOY.steps:
        assert episode.truncated and not episode.terminated and episode.cause == "recovered"


def test_a_killed_writer_leaves_all_that_it_flushed(tmp_path: Path) -> None:
    rng = random.Random(0)
    steps = set()
    for attempt in range(20):
        path = tmp_path / f"bag{attempt}"
        flushed = killed_writer(path, rng.randrange(len(SENT)), rng.uniform(0.0, 0.01))
        done = repair(path)
        assert done.messages >= flushed, "what was flushed is there"
        assert raw(path) == [(t, data) for t, _, data in SENT[: done.messages]]
        summary = read_summary(path)
        assert summary is not None and summary.recovered and summary.steps == done.steps
        if done.steps:
            episode = read_episode(path, recovered=True)
            holds_the_beginning(episode)
            steps.add(episode.steps)
    assert len(steps) > 1, "the moments differ"


def killed_writer(path: Path, after: int, seconds: float) -> int:
    """Write in another process, kill it a moment after so many messages; returns how many it has said to be flushed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            writer = BagWriter(path, TYPESTORE, {"robot": "/hand0"}, sync=False)
            os.write(write_end, struct.pack("<I", 0))
            for count, (topic, kind, data) in enumerate(SENT, start=1):
                writer.write(topic, kind, count, data)
                if count % 3 == 0:
                    writer.flush()
                    os.write(write_end, struct.pack("<I", count))
                time.sleep(0.001)
            time.sleep(60.0)
        finally:
            os._exit(1)
    os.close(write_end)
    told = b""
    while len(told) < 4 or struct.unpack("<I", told[-4:])[0] < after - 3:
        told += os.read(read_end, 4)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while piece := os.read(read_end, 65536):
        told += piece
    os.close(read_end)
    return int(struct.unpack("<I", told[-4:])[0])


def chunks(bag: Path) -> list[tuple[int, int]]:
    """(end of a chunk [bytes], messages up to it), by the index of the closed file."""
    with next(bag.glob("*.mcap")).open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    # The stamp of a message is its place, from 1 on.
    return [(i.chunk_start_offset + i.chunk_length, i.message_end_time) for i in summary.chunk_indexes]


def test_a_file_that_ends_anywhere_gives_every_whole_chunk(closed: Path, tmp_path: Path) -> None:
    data = next(closed.glob("*.mcap")).read_bytes()
    ends = chunks(closed)
    assert len(ends) > 5 and ends[-1][1] == len(SENT)

    def whole(size: int) -> int:
        return max((count for end, count in ends if end <= size), default=0)

    sizes = [*random.Random(1).sample(range(len(data) - 200), 60), *range(len(data) - 200, len(data))]
    for size in sizes:
        prefix = SoundPrefix(data[:size])
        found = [bytes(r.data) for r in prefix.records() if isinstance(r, Message)]
        assert found == [d for _, _, d in SENT[: whole(size)]], size
        assert not prefix.closed and not prefix.damaged
    for size in [*sizes[:5], 0, 3, len(data) - 1]:
        path = open_copy(tmp_path / f"at{size}", data[:size])
        with pytest.raises(BagError, match=f"{path}: metadata.yaml is missing"):
            read_episode(path, recovered=True)
        done = repair(path)
        assert raw(path) == [(t, d) for t, _, d in SENT[: whole(size)]]
        assert done.kept is None and not [*tmp_path.glob("*.damaged"), *tmp_path.glob("*.repairing")]
        if done.steps:
            holds_the_beginning(read_episode(path, recovered=True))
        else:
            with pytest.raises(BagError, match=str(path)):
                read_episode(path, recovered=True)


def test_no_bit_of_a_closed_file_flips_unnoticed(closed: Path, tmp_path: Path) -> None:
    data = bytearray(next(closed.glob("*.mcap")).read_bytes())
    rng = random.Random(2)
    spots = [*range(150), *rng.sample(range(len(data)), 500), *range(len(data) - 150, len(data))]
    file = tmp_path / "flipped.mcap"
    for spot in spots:
        bit = 1 << rng.randrange(8)
        data[spot] ^= bit
        file.write_bytes(data)
        assert fault_of(file), f"bit {bit} of byte {spot}"
        data[spot] ^= bit
    file.write_bytes(data)
    assert not fault_of(file)


def test_reading_a_flipped_bag_names_it_and_repair_keeps_what_is_sound(closed: Path, tmp_path: Path) -> None:
    original = next(closed.glob("*.mcap")).read_bytes()
    for spot in random.Random(3).sample(range(len(original)), 8):
        path = tmp_path / f"spot{spot}"
        shutil.copytree(closed, path)
        (path / "bag.mcap").rename(path / f"{path.name}.mcap")
        data = bytearray(original)
        data[spot] ^= 4
        (path / f"{path.name}.mcap").write_bytes(data)
        with pytest.raises(BagError, match=f"{path}: damaged or truncated"):
            list(read_messages(path))
        done = repair(path)
        assert done.kept is not None and (done.kept / f"{path.name}.mcap").read_bytes() == data
        assert raw(path) == [(t, d) for t, _, d in SENT[: done.messages]]
        if done.steps:
            holds_the_beginning(read_episode(path, recovered=True))


def test_bits_that_flip_in_an_open_file_never_give_other_messages(closed: Path) -> None:
    data = bytearray(next(closed.glob("*.mcap")).read_bytes()[:-3000])
    wanted = [d for _, _, d in SENT]
    rng = random.Random(4)
    for spot in [*range(200), *rng.sample(range(len(data)), 800)]:
        bit = 1 << rng.randrange(8)
        data[spot] ^= bit
        found = [bytes(r.data) for r in SoundPrefix(bytes(data)).records() if isinstance(r, Message)]
        assert found == wanted[: len(found)], f"bit {bit} of byte {spot}"
        data[spot] ^= bit


def test_metadata_that_were_changed_are_refused_or_say_the_same(closed: Path, tmp_path: Path) -> None:
    path = tmp_path / "bag"
    shutil.copytree(closed, path)
    text = (path / "metadata.yaml").read_bytes()
    said, rng, refused = read_information(path), random.Random(5), 0
    for spot in rng.sample(range(len(text)), 300):
        changed = bytearray(text)
        changed[spot] ^= 1 << rng.randrange(7)
        (path / "metadata.yaml").write_bytes(changed)
        try:
            assert read_information(path).custom == said.custom, spot
        except BagError:
            refused += 1
    assert refused > 100


def test_a_bag_that_holds_everything_but_its_index_is_complete(closed: Path, tmp_path: Path) -> None:
    path = tmp_path / "bag"
    write(path, sync=False).flush()
    shutil.copytree(path, tmp_path / "left")  # the writer still holds the other one
    (tmp_path / "left" / "bag.mcap").rename(tmp_path / "left" / "left.mcap")
    with pytest.raises(BagBusyError, match="is being written"):
        repair(path)
    done = repair(tmp_path / "left")
    assert done.complete and done.steps == TOY.steps and "not closed" in done.why
    np.testing.assert_array_equal(read_episode(tmp_path / "left").states, TOY.states)
    assert repair(tmp_path / "left").why == ""


def test_a_repair_that_was_cut_off_begins_anew(closed: Path, tmp_path: Path) -> None:
    data = next(closed.glob("*.mcap")).read_bytes()
    path = open_copy(tmp_path / "bag", data[: len(data) // 2])
    shutil.copytree(path, tmp_path / "bag.repairing")
    path.rename(tmp_path / "bag.damaged")  # between the two renames of the swap
    assert episode_bags(tmp_path) == []
    (done,) = repair_all(tmp_path)
    assert isinstance(done, Repaired) and done.path == path and done.steps > 0
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def test_keep_leaves_the_original(closed: Path, tmp_path: Path) -> None:
    data = next(closed.glob("*.mcap")).read_bytes()[:-3000]
    path = open_copy(tmp_path / "bag", data)
    done = repair(path, keep=True)
    assert done.kept == tmp_path / "bag.damaged" and (done.kept / "bag.mcap").read_bytes() == data
    assert episode_bags(tmp_path) == [path]


def test_labels_survive_a_repair(closed: Path, tmp_path: Path) -> None:
    path = tmp_path / "bag"
    shutil.copytree(closed, path)
    label_bag(path, 1, [0.5], "human", 1.0)
    file = path / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-3000])
    assert repair(path).steps > 1
    assert read_episode(path, recovered=True).rewards[1] == 0.5
