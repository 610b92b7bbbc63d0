"""The spool: numbers without gaps, over restarts; nothing leaves before it was acknowledged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow_recorder.spool import Spool, SpoolError, SpoolFullError


def seqs(spool: Spool) -> list[int]:
    return [item.seq for item in spool.pending(100)]


def test_items_are_numbered_from_one_and_keep_their_bytes(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert [spool.append(bytes([i])).seq for i in range(3)] == [1, 2, 3]
    assert [item.payload() for item in spool.pending(10)] == [b"\0", b"\1", b"\2"]
    assert seqs(spool) == [1, 2, 3] and [item.seq for item in spool.pending(2)] == [1, 2]


def test_a_restart_keeps_boot_numbers_and_items(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.append(b"a")
    first.append(b"b")
    first.acknowledge(1)
    again = Spool(tmp_path)
    assert again.boot == first.boot and again.acknowledged == 1 and seqs(again) == [2]
    assert again.append(b"c").seq == 3


def test_numbers_go_on_after_a_restart_with_an_empty_spool(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.append(b"a")
    first.acknowledge(1)
    assert Spool(tmp_path).append(b"b").seq == 2


def test_two_spools_have_different_boots(tmp_path: Path) -> None:
    assert Spool(tmp_path / "a").boot != Spool(tmp_path / "b").boot


@pytest.mark.parametrize("seq", [3, 1000])
def test_acknowledging_the_future_is_an_error_and_keeps_everything(tmp_path: Path, seq: int) -> None:
    spool = Spool(tmp_path)
    spool.append(b"a")
    spool.append(b"b")
    with pytest.raises(ValueError, match=f"acknowledged seq is {seq}, the newest item is 2"):
        spool.acknowledge(seq)
    assert seqs(spool) == [1, 2] and spool.acknowledged == 0


def test_an_old_acknowledgement_changes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for _ in range(3):
        spool.append(b"x")
    spool.acknowledge(2)
    spool.acknowledge(1)
    assert spool.acknowledged == 2 and seqs(spool) == [3]


def test_items_that_a_crash_left_behind_go_with_the_next_acknowledgement(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    item = spool.append(b"a")
    spool.acknowledge(1)
    item.path.write_bytes(b"a")  # the crash came between the acknowledgement and the deletion
    again = Spool(tmp_path)
    again.acknowledge(1)
    assert seqs(again) == []


def test_a_half_written_item_is_not_one(tmp_path: Path) -> None:
    item = Spool(tmp_path).append(b"a")
    (item.path.parent / "0000000002-0-00000000.item.tmp").write_bytes(b"hal")
    assert seqs(Spool(tmp_path)) == [1] and Spool(tmp_path).append(b"b").seq == 2


def test_a_new_boot_begins_at_one_with_nothing_of_the_old_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    old = spool.boot
    for _ in range(3):
        spool.append(b"x")
    spool.acknowledge(2)
    spool.begin_anew()
    for one in (spool, Spool(tmp_path)):
        assert one.boot == spool.boot != old
        assert (one.newest, one.acknowledged, one.waiting, one.size) == (0, 0, 0, 0)
    assert {p.name for p in tmp_path.iterdir()} == {"current", spool.boot}
    assert spool.append(b"y").seq == 1


def test_a_missing_item_begins_a_new_boot_and_a_changed_one_is_an_error(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    items = [spool.append(b"abc") for _ in range(3)]
    items[0].path.write_bytes(b"abd")
    with pytest.raises(SpoolError, match="crc32 is"):
        spool.pending(1)[0].payload()
    items[1].path.unlink()
    again = Spool(tmp_path)
    assert again.boot != spool.boot and again.newest == 0


def test_a_call_has_at_least_one_item_and_no_more_bytes_than_wanted(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for size in (10, 10, 10, 100):
        spool.append(bytes(size))
    assert [len(spool.pending(8, size)) for size in (1, 19, 20, 129, 130)] == [1, 1, 2, 3, 4]
    spool.acknowledge(3)
    assert len(spool.pending(8, 1)) == 1 and spool.pending(0, 10) == []


def test_beyond_its_bound_nothing_is_stored_until_there_is_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit=100)
    spool.append(bytes(60))
    for one in (spool, Spool(tmp_path, limit=100)):
        with pytest.raises(SpoolFullError, match="has 60 bytes in 1 items, may have 100"):
            one.append(bytes(41))
    assert spool.append(bytes(40)).seq == 2
    spool.acknowledge(2)
    assert spool.append(bytes(500)).seq == 3  # alone it has room


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["append", "restart", 1, 2, 3]), max_size=12))
def test_whatever_happens_what_waits_is_what_was_not_acknowledged(actions: list[str | int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool, given_out, acknowledged = Spool(Path(folder)), 0, 0
        for action in actions:
            if action == "append":
                given_out += 1
                assert spool.append(b"x").seq == given_out
            elif action == "restart":
                spool = Spool(Path(folder))
            elif int(action) <= given_out:
                spool.acknowledge(int(action))
                acknowledged = max(acknowledged, int(action))
            assert seqs(spool) == list(range(acknowledged + 1, given_out + 1))
