"""The journal: each item exactly once, in order, on the disk, over restarts."""

from __future__ import annotations

import contextlib
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow_learner.journal import Journal, JournalError, Pushed


def item(seq: int, robot: str = "/hand0", boot: str = "b0", crc32: int | None = None) -> Pushed:
    payload = f"{robot}{boot}{seq}".encode()
    return Pushed(robot, boot, seq, zlib.crc32(payload) if crc32 is None else crc32, payload)


def test_items_are_stored_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert [journal.add(item(seq)) for seq in (1, 2, 2, 1, 3)] == [True, True, False, False, True]
    assert list(journal.payloads()) == [item(seq).payload for seq in (1, 2, 3)]
    assert journal.acknowledged("/hand0", "b0") == 3


def test_the_items_of_each_robot_are_counted_over_boots_and_restarts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for robot, boot, seq in (
        ("/hand0", "a", 1),
        ("/hand0", "b", 1),
        ("/lab/hand1", "c", 1),
        ("/hand0", "b", 2),
    ):
        journal.add(item(seq, robot, boot))
    journal.add(item(2, "/hand0", "b"))
    assert journal.stored() == {"/hand0": 3, "/lab/hand1": 1}
    assert Journal(tmp_path).stored() == journal.stored()


@pytest.mark.parametrize("seq", [2, 7])
def test_a_gap_is_refused_and_named(tmp_path: Path, seq: int) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(JournalError, match=f"seq is {seq}, must be 1"):
        journal.add(item(seq))
    assert list(journal.payloads()) == [] and journal.acknowledged("/hand0", "b0") == 0


def test_a_wrong_crc_is_refused_and_the_right_item_still_fits(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    right = zlib.crc32(item(1).payload)
    with pytest.raises(JournalError, match=f"crc32 of item 1 is {right}, the item says 5"):
        journal.add(item(1, crc32=5))
    assert journal.add(item(1)) is True


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
def test_names_that_are_no_directory_names_are_refused(
    tmp_path: Path, robot: str, boot: str, named: str
) -> None:
    journal = Journal(tmp_path / "journal")
    for call in (lambda: journal.add(item(1, robot, boot)), lambda: journal.acknowledged(robot, boot)):
        with pytest.raises(JournalError, match=named):
            call()
    assert [p.name for p in tmp_path.rglob("*")] == ["journal"]


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_no_name_leads_out_of_the_directory(robot: str, boot: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "deep" / "journal"
        with contextlib.suppress(JournalError):
            Journal(inside).add(item(1, robot, boot))
        files = [p for p in Path(folder).rglob("*") if p.is_file()]
        assert all(p.parent.parent.parent == inside for p in files)


def test_robots_and_boots_are_counted_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for robot in ("/hand0", "/hand1", "/"):
        for boot in ("b0", "b1"):
            assert journal.add(item(1, robot, boot)) is True
    assert len(list(journal.payloads())) == 6
    assert journal.acknowledged("/hand0", "b0") == 1 and journal.acknowledged("/hand2", "b0") == 0


def test_a_half_written_item_is_not_acknowledged(tmp_path: Path) -> None:
    Journal(tmp_path).add(item(1))
    (tmp_path / "hand0" / "b0" / "0000000002.segment.tmp").write_bytes(b"hal")
    journal = Journal(tmp_path)
    assert journal.acknowledged("/hand0", "b0") == 1 and len(list(journal.payloads())) == 1
    assert journal.add(item(2)) is True


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 6), st.just("restart")), max_size=25))
def test_whatever_is_pushed_the_journal_is_gapless_and_each_item_is_there_once(
    events: list[int | str],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal, newest = Journal(Path(folder)), 0
        for event in events:
            if event == "restart":
                journal = Journal(Path(folder))
                continue
            try:
                stored = journal.add(item(int(event)))
            except JournalError:
                assert int(event) > newest + 1
                continue
            assert stored is (int(event) == newest + 1)
            newest += stored
            assert journal.acknowledged("/hand0", "b0") == newest
        assert list(Journal(Path(folder)).payloads()) == [item(s).payload for s in range(1, newest + 1)]
