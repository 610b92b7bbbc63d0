"""The journal: each item exactly once, in order, on the disk, over restarts and whatever happens to its bytes."""

from __future__ import annotations

import os
import signal
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow_learner.journal import FILE, LABEL, About, Added, Journal, JournalError, Pushed


def item(
    seq: int, robot: str = "/hand0", boot: str = "b0", crc32: int | None = None, about: About | None = None
) -> Pushed:
    payload = f"{robot}{boot}{seq}".encode()
    return Pushed(robot, boot, seq, zlib.crc32(payload) if crc32 is None else crc32, payload, about=about)


def part(seq: int, episode: str, start: int, stop: int, boot: str = "b0") -> Pushed:
    payload = f"{episode}[{start}:{stop}]".encode()
    about = About(episode, start, stop)
    return Pushed("/hand0", boot, seq, zlib.crc32(payload), payload, about=about)


def payloads(journal: Journal) -> list[bytes]:
    return [stored.payload for stored in journal.stored()]


def test_items_are_stored_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    added = journal.add([item(seq) for seq in (1, 2, 2, 1, 3)])
    assert added == Added([item(1), item(2), item(3)], repeated=2)
    assert journal.add([item(3)]) == Added(repeated=1)
    for again in (journal, Journal(tmp_path)):
        assert payloads(again) == [item(seq).payload for seq in (1, 2, 3)]
        assert again.acknowledged("/hand0", "b0") == 3


def test_the_items_of_each_robot_are_counted_over_boots_and_restarts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for robot, boot, seq in (
        ("/hand0", "a", 1),
        ("/hand0", "b", 1),
        ("/lab/hand1", "c", 1),
        ("/hand0", "b", 2),
    ):
        journal.add([item(seq, robot, boot)])
    journal.add([item(2, "/hand0", "b")])
    assert journal.robots() == {"/hand0": 3, "/lab/hand1": 1}
    assert Journal(tmp_path).robots() == journal.robots()


@pytest.mark.parametrize("seq", [2, 7])
def test_a_gap_is_refused_and_named(tmp_path: Path, seq: int) -> None:
    journal = Journal(tmp_path)
    assert f"seq is {seq}, must be 1" in journal.add([item(seq)]).error
    assert payloads(journal) == [] and journal.acknowledged("/hand0", "b0") == 0


def test_a_wrong_crc_is_refused_what_came_before_is_kept_and_the_right_item_still_fits(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path)
    right = zlib.crc32(item(2).payload)
    added = journal.add([item(1), item(2, crc32=5), item(3)])
    assert added.error == f"crc32 of item 2 is {right}, the item says 5" and added.new == [item(1)]
    assert Journal(tmp_path).acknowledged("/hand0", "b0") == 1
    assert journal.add([item(2)]).new == [item(2)]


@pytest.mark.parametrize(
    ("robot", "boot", "named"),
    [
        ("../x", "b", "robot is"),
        ("/..", "b", "robot is"),
        (".hidden", "b", "robot is"),
        ("a b", "b", "robot is"),
        ("a\0b", "b", "robot is"),
        ("x" * 101, "b", "robot is"),
        ("/hand0", "../b", "boot is '../b'"),
        ("/hand0", "..", "boot is"),
        ("/hand0", "", "boot is ''"),
        ("/hand0", "a/b", "boot is"),
        ("/hand0", "b\n", "boot is"),
    ],
)
def test_names_that_no_recorder_has_are_refused(tmp_path: Path, robot: str, boot: str, named: str) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(JournalError, match=named):
        journal.acknowledged(robot, boot)
    assert named in journal.add([item(1, robot, boot)]).error
    assert payloads(journal) == []


def test_robots_and_boots_are_counted_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for robot in ("/hand0", "/hand1", "/"):
        for boot in ("b0", "b1"):
            assert len(journal.add([item(1, robot, boot)]).new) == 1
    journal.add([item(2, "/hand1", "b1")])
    for again in (journal, Journal(tmp_path)):
        assert again.robots() == {"/": 2, "/hand0": 2, "/hand1": 3}
        assert again.acknowledged("/hand0", "b0") == 1 and again.acknowledged("/hand2", "b0") == 0


def test_what_is_handed_over_anew_is_dropped_by_what_it_is_about(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = [part(1, "a", 0, 5), part(2, "a", 5, 9), part(3, "b", 0, 4)]
    journal.add(first)
    anew = [part(1, "a", 0, 5, "b1"), part(2, "a", 5, 9, "b1"), part(3, "b", 0, 4, "b1")]
    rest = [part(4, "b", 4, 6, "b1"), part(5, "c", 0, 2, "b1")]
    assert journal.add(anew + rest) == Added(rest, repeated=3)
    for again in (journal, Journal(tmp_path)):
        assert payloads(again) == [i.payload for i in first + rest]
        assert again.acknowledged("/hand0", "b1") == 5
    assert journal.add([part(6, "c", 0, 2, "b1")]).repeated == 1


def test_equal_names_of_two_robots_are_two_episodes(tmp_path: Path) -> None:
    one, other = part(1, "a", 0, 5), replace(part(1, "a", 0, 5), robot="/hand1")
    assert Journal(tmp_path).add([one, other]).new == [one, other]


def test_a_label_is_known_by_its_revision_and_does_not_stand_for_steps(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def label(seq: int, revision: int, boot: str) -> Pushed:
        return Pushed("/hand0", boot, seq, zlib.crc32(b"x"), b"x", LABEL, About("a", revision, 0))

    journal.add([part(1, "a", 0, 5), label(2, 1, "b0"), label(3, 2, "b0")])
    added = journal.add([part(1, "a", 0, 5, "b1"), label(2, 2, "b1"), label(3, 3, "b1")])
    assert added == Added([label(3, 3, "b1")], repeated=2)
    assert [stored.kind for stored in Journal(tmp_path).stored()] == [0, LABEL, LABEL, LABEL]


def test_cut_off_at_any_byte_the_whole_records_remain_and_the_next_item_fits(tmp_path: Path) -> None:
    journal, file = Journal(tmp_path / "whole"), tmp_path / "whole" / FILE
    ends = [0]
    for seq in (1, 2, 3):
        journal.add([item(seq)])
        ends.append(file.stat().st_size)
    data = file.read_bytes()
    for size in range(len(data) + 1):
        cut = tmp_path / "cut"
        cut.mkdir(exist_ok=True)
        (cut / FILE).write_bytes(data[:size])
        again = Journal(cut)
        whole = sum(end <= size for end in ends[1:])
        assert again.acknowledged("/hand0", "b0") == whole
        assert (again.torn_bytes, again.damaged) == (size - ends[whole], 0)
        again.add([item(whole + 1)])
        again.close()
        assert payloads(Journal(cut)) == [item(seq).payload for seq in range(1, whole + 2)]


def test_a_changed_bit_anywhere_is_noticed_and_not_acknowledged(tmp_path: Path) -> None:
    journal, file = Journal(tmp_path), tmp_path / FILE
    parts = [part(1, "a", 0, 5), part(2, "b", 0, 5), part(3, "c", 0, 5)]
    ends = [0]
    for one in parts:
        journal.add([one])
        ends.append(file.stat().st_size)
    data = file.read_bytes()
    for at in range(0, ends[2], 3):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        again, bad = Journal(tmp_path), int(at >= ends[1])
        assert again.damaged == 1 and again.torn_bytes == 0
        assert again.acknowledged("/hand0", "b0") == bad
        left = [p.payload for i, p in enumerate(parts) if i != bad]
        assert payloads(again) == left
        # The recorder hands all over anew: what was lost comes back, and nothing twice.
        anew = [part(i, e, 0, 5, "b1") for i, e in enumerate("abc", start=1)]
        assert again.add(anew) == Added([anew[bad]], repeated=2)
        again.close()


def test_a_failed_write_stores_nothing_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.add([item(1)])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.add([item(2), item(3)])
    assert journal.acknowledged("/hand0", "b0") == 1 and payloads(journal) == [item(1).payload]
    assert journal.add([item(2)]).new == [item(2)]


def test_killed_at_any_moment_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                journal = Journal(tmp_path)
                while True:
                    first = journal.acknowledged("/hand0", "b0") + 1
                    journal.add([item(seq) for seq in range(first, first + 3)])
                    os.write(writer, journal.acknowledged("/hand0", "b0").to_bytes(4, "little"))
            finally:
                os._exit(1)
        for _ in range(int(rng.integers(2, 20))):
            last = os.read(reader, 4)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(writer)
        while rest := os.read(reader, 4):
            last = rest
        os.close(reader)
        journal = Journal(tmp_path)
        assert journal.acknowledged("/hand0", "b0") >= int.from_bytes(last, "little") > 0
        newest = journal.acknowledged("/hand0", "b0")
        assert payloads(journal) == [item(seq).payload for seq in range(1, newest + 1)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 6), st.just("restart")), max_size=25))
def test_whatever_is_pushed_the_journal_is_gapless_and_each_item_is_there_once(
    events: list[int | str],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal, newest = Journal(Path(folder)), 0
        for event in events:
            if event == "restart":
                journal.close()
                journal = Journal(Path(folder))
                continue
            added = journal.add([item(int(event))])
            assert bool(added.error) is (int(event) > newest + 1)
            assert len(added.new) == (int(event) == newest + 1)
            newest += len(added.new)
            assert journal.acknowledged("/hand0", "b0") == newest
        assert payloads(Journal(Path(folder))) == [item(s).payload for s in range(1, newest + 1)]
