"""Every episode for training and every label goes into the spool once, whenever the recorder dies."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from softflow_msgs.msg import EpisodeSegment, RewardLabel

from softflow_recorder.labelling import label_bag
from softflow_recorder.ledger import Ledger, LedgerError
from softflow_recorder.messages import to_item, to_label_payload, to_payloads
from softflow_recorder.outbox import LABEL, SEGMENT, Outbox
from softflow_recorder.repair import repair
from softflow_recorder.spool import Item, Spool, SpoolFullError, read_spool

sys.path.insert(0, str(Path(__file__).parent))

from recorder_toy import Toy


def toy(n: int, **values: object) -> Toy:
    return Toy.make(seed=n, episode_id=f"{n:08x}", **{"mode": "train", **values})  # type: ignore[arg-type]


def write(run: Path, n: int, **values: object) -> Path:
    return toy(n, **values).write(run / "bags" / f"{n:04d}-{n:08x}")


def outbox(run: Path, spool: Spool | None = None) -> Outbox:
    (run / "bags").mkdir(parents=True, exist_ok=True)
    spool = spool or Spool(run / "spool")
    return Outbox(run / "bags", "/hand0", spool, lambda e: to_payloads("/hand0", e), to_label_payload)


def spooled(run: Path) -> list[str]:
    """Episodes in the spool, labels as episode:revision."""
    found = []
    for item in read_spool(run / "spool"):
        if item.kind == LABEL:
            label: RewardLabel = deserialize_message(item.payload(), RewardLabel)
            found.append(f"{label.episode_id}:{label.revision}")
        else:
            found.append(deserialize_message(item.payload(), EpisodeSegment).episode_id)
    return found


def test_only_usable_episodes_for_training_of_this_robot_go(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2, mode="eval")
    toy(3).write(tmp_path / "bags" / "0003", toy(3).messages()[:4], complete="false")
    write(tmp_path, 4)
    (tmp_path / "bags" / "0004-00000004" / "metadata.yaml").unlink()
    box = outbox(tmp_path)
    box.work()
    assert spooled(tmp_path) == ["00000001"] and not box.errors
    again = outbox(tmp_path)
    assert len(again) == 0
    again.work()
    assert spooled(tmp_path) == ["00000001"]


def test_a_bag_closed_before_a_crash_is_handed_over_at_the_next_start(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.add(write(tmp_path, 1))
    box.work()
    write(tmp_path, 2)  # and then the process died
    outbox(tmp_path).work()
    assert spooled(tmp_path) == ["00000001", "00000002"]


def test_the_beginning_of_an_episode_that_a_crash_cut_off_is_handed_over(tmp_path: Path) -> None:
    bag = write(tmp_path, 1)
    toy(1).write(tmp_path / "cut", [m for m in toy(1).messages() if m[0] != "episode_event" or not m[1].kind])
    for path in bag.iterdir():
        path.unlink()
    (tmp_path / "cut" / "cut.mcap").rename(bag / f"{bag.name}.mcap")
    assert repair(bag).steps == 12
    outbox(tmp_path).work()
    (item,) = Spool(tmp_path / "spool").pending(10)
    segment: EpisodeSegment = deserialize_message(item.payload(), EpisodeSegment)
    assert segment.truncated and not segment.terminated and segment.final and segment.steps == 12
    np.testing.assert_array_equal(np.array(segment.rewards, np.float32), toy(1).rewards)


class Killed(BaseException):
    """Stands for the end of the process at this very place."""


class DyingSpool(Spool):
    """Dies before or after it stores an item."""

    def __init__(self, directory: Path, when: str) -> None:
        super().__init__(directory)
        self.when = when

    def append(self, payload: bytes, kind: int = SEGMENT) -> Item:
        if self.when == "before":
            raise Killed
        item = super().append(payload, kind)
        if self.when == "after":
            raise Killed
        return item


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["episode", "label"])
def test_an_end_between_ledger_and_spool_neither_loses_nor_doubles(
    tmp_path: Path, when: str, what: str
) -> None:
    bags = [write(tmp_path, n) for n in (1, 2)]
    wanted = ["00000001", "00000002"]
    if what == "label":
        outbox(tmp_path).work()
        label_bag(bags[0], 0, [0.5], "human", 1.0)
        wanted.append("00000001:1")
    for _ in range(3):
        with pytest.raises(Killed):
            outbox(tmp_path, DyingSpool(tmp_path / "spool", when)).work()
        if when == "after" and len(spooled(tmp_path)) == len(wanted):
            break
    outbox(tmp_path).work()
    outbox(tmp_path).work()
    assert sorted(spooled(tmp_path)) == sorted(wanted)


def test_processes_killed_at_any_moment_hand_everything_over_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(16):
        write(tmp_path, n)
    for _ in range(6):
        child = os.fork()
        if child == 0:
            try:
                outbox(tmp_path).work()
            finally:
                os._exit(0)
        before = len(spooled(tmp_path))
        while len(list((tmp_path / "spool").glob("*/*.item"))) < min(before + 1, 16):
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0.0, 0.03)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    outbox(tmp_path).work()
    assert spooled(tmp_path) == [f"{n:08x}" for n in range(16)]


def test_without_room_what_waits_keeps_its_order_and_its_numbers(tmp_path: Path) -> None:
    class Full(Spool):
        full = True

        def append(self, payload: bytes, kind: int = SEGMENT) -> Item:
            if self.full:
                raise OSError(28, "No space left on device")
            return super().append(payload, kind)

    spool = Full(tmp_path / "spool")
    box = outbox(tmp_path, spool)
    for n in (1, 2):
        box.add(write(tmp_path, n))
        with pytest.raises(OSError, match="No space left"):
            box.work()
    assert len(box) == 2 and spooled(tmp_path) == []
    spool.full = False
    box.work()
    assert len(box) == 0 and spooled(tmp_path) == ["00000001", "00000002"]
    assert [i.seq for i in spool.pending(10)] == [1, 2]


def test_an_episode_has_the_labels_of_its_time_and_every_label_follows_it(
    tmp_path: Path,
) -> None:
    bags = [write(tmp_path, n) for n in (1, 2)]
    label_bag(bags[1], 0, [0.125], "human", 1.0)
    box = outbox(tmp_path)
    box.work()
    assert spooled(tmp_path) == ["00000001", "00000002", "00000002:1"]
    second: EpisodeSegment = deserialize_message(
        Spool(tmp_path / "spool").pending(9)[1].payload(), EpisodeSegment
    )
    assert second.rewards[0] == 0.125
    for bag in bags:
        label_bag(bag, 3, [0.5, 0.25], "human", 0.5)
        box.add(bag)
    box.work()
    assert spooled(tmp_path)[3:] == ["00000001:1", "00000002:2"]
    item = to_item("/hand0", "boot", Spool(tmp_path / "spool").pending(9)[3])
    label: RewardLabel = deserialize_message(bytes(item.payload), RewardLabel)
    assert item.kind == LABEL and (label.start_step, list(label.values)) == (3, [0.5, 0.25])
    assert (label.source, label.confidence) == ("human", 0.5)


def test_a_new_spool_gets_everything_again_and_so_does_a_new_boot(tmp_path: Path) -> None:
    bags = [write(tmp_path, n) for n in (1, 2)]
    outbox(tmp_path).work()
    label_bag(bags[0], 0, [0.5], "human", 1.0)
    (tmp_path / "spool").rename(tmp_path / "lost")
    spool = Spool(tmp_path / "spool")
    box = outbox(tmp_path, spool)
    box.work()
    everything = ["00000001", "00000001:1", "00000002"]
    assert spooled(tmp_path) == everything
    spool.acknowledge(2)
    box.begin_anew()
    box.add(write(tmp_path, 3))
    for _ in range(4):
        box.work(1)
    assert spooled(tmp_path) == [*everything, "00000003"]
    outbox(tmp_path).work()
    assert spooled(tmp_path) == [*everything, "00000003"]


def test_a_crash_after_the_new_boot_was_written_hands_everything_over_once(tmp_path: Path) -> None:
    for n in (1, 2):
        write(tmp_path, n)
    outbox(tmp_path).work()
    Spool(tmp_path / "spool").begin_anew()  # and then the process died
    for _ in range(2):
        outbox(tmp_path).work()
        assert spooled(tmp_path) == ["00000001", "00000002"]


def test_a_full_spool_takes_up_an_episode_where_it_stopped(tmp_path: Path) -> None:
    pieces = [bytes([n]) * 60 for n in range(3)]
    spool = Spool(tmp_path / "spool", limit=100)
    ledger, got = Ledger(tmp_path / "ledger", spool), []
    sizes = []
    while not ledger.find("one"):
        with contextlib.suppress(SpoolFullError):
            ledger.put("one", "bag", pieces)
        with contextlib.suppress(SpoolFullError):
            ledger.put("one", "bag", pieces)
        sizes.append((tmp_path / "ledger").stat().st_size)
        got += [item.payload() for item in spool.pending(9)]
        spool.acknowledge(spool.newest)
    assert got == pieces and len(set(sizes)) == 1


def test_a_damaged_bag_is_reported_and_the_others_go(tmp_path: Path) -> None:
    bag = write(tmp_path, 1)
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-300])
    write(tmp_path, 2)
    box = outbox(tmp_path)
    box.work()
    assert spooled(tmp_path) == ["00000002"] and len(box.errors) == 1 and str(bag) in box.errors[0]


def test_a_damaged_ledger_is_an_error_and_a_cut_off_line_is_not(tmp_path: Path) -> None:
    for n in (1, 2):
        write(tmp_path, n)
    outbox(tmp_path).work()
    file, spool = tmp_path / "shipped_episodes", Spool(tmp_path / "spool")
    data = file.read_bytes()
    file.write_bytes(data[:-5])
    assert Ledger(file, spool).find("00000001") and not Ledger(file, spool).find("00000002")
    file.write_bytes(data.replace(b"00000001", b"0000000f", 1))
    with pytest.raises(LedgerError, match="line 1 is damaged"):
        Ledger(file, spool)


def test_several_items_of_an_episode_are_completed_after_a_crash(tmp_path: Path) -> None:
    spool = DyingSpool(tmp_path / "spool", "after")
    with pytest.raises(Killed):
        Ledger(tmp_path / "ledger", spool).put("one", "bag", [b"a", b"b", b"c"])
    spool = DyingSpool(tmp_path / "spool", "never")
    ledger = Ledger(tmp_path / "ledger", spool)
    assert ledger.find("one") is None
    ledger.put("one", "bag", [b"a", b"b", b"c"])
    assert ledger.find("one") and [i.payload() for i in spool.pending(9)] == [b"a", b"b", b"c"]
