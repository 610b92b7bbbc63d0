"""The shelf: blocks that make up the file, bounds that are named, what becomes of versions, restarts."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import pytest

from softflow_learner.shelf import RECORD, Offer, Shelf, ShelfError
from softflow_policy.download import BLOCK, Download
from softflow_policy.policy import ChunkPolicy
from softflow_policy.spec import PolicySpec
from softflow_policy.versions import Announcement, State
from softflow_policy.weights import WeightsInfo, encode_weights

CANDIDATE, ACTIVE, ROLLED_BACK = State.CANDIDATE, State.ACTIVE, State.ROLLED_BACK
POLICY = ChunkPolicy(PolicySpec(state_dim=2, horizon=2, action_dim=1, couplings=2, width=4, critic_width=4))


def offer(version: int, size: int = 100) -> Offer:
    data = bytes((version + i) % 251 for i in range(size))
    info = WeightsInfo(
        version=version, parent=version - 1, gradient_step=1, stage="online", best_of=1, layout_hash="l"
    )
    return Offer(info, data, hashlib.sha256(data).hexdigest(), "spec")


def test_the_blocks_make_up_the_file_as_the_policy_node_fetches_it(tmp_path: Path) -> None:
    shelf, wanted = Shelf(tmp_path), offer(1, 2 * BLOCK + 77)
    path = shelf.put(wanted)
    assert path.read_bytes() == wanted.data
    size, digest = len(wanted.data), wanted.sha256
    download = Download(Announcement(1, digest, size, "spec", "l", State.ACTIVE))
    lengths = []
    while download.length:
        data, size = shelf.block(1, download.offset, download.length)
        lengths.append(len(data))
        download.add(data, zlib.crc32(data), size)
    assert lengths == [BLOCK, BLOCK, 77]
    assert download.data == wanted.data


def test_a_block_at_the_end_is_as_short_as_it_is(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(offer(1))
    assert shelf.block(1, 90, 50) == (offer(1).data[90:], 100)


@pytest.mark.parametrize(
    ("version", "offset", "length", "named"),
    [
        (3, 0, 10, "version 3 is not on offer; on offer: 1, 2"),
        (1, -1, 10, r"offset is -1, must be in \[0, 99\]"),
        (1, 100, 10, r"offset is 100, must be in \[0, 99\]"),
        (1, 0, 0, r"length is 0, must be in \[1, "),
        (1, 0, -5, r"length is -5"),
        (1, 0, BLOCK + 1, rf"length is {BLOCK + 1}, must be in \[1, {BLOCK}\]"),
    ],
)
def test_a_bad_request_names_field_value_and_bound(
    tmp_path: Path, version: int, offset: int, length: int, named: str
) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(offer(1))
    shelf.put(offer(2))
    with pytest.raises(ValueError, match=named):
        shelf.block(version, offset, length)


def test_an_empty_shelf_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="version 1 is not on offer; on offer: none"):
        Shelf(tmp_path).block(1, 0, 1)


def test_the_last_versions_are_kept_in_memory_and_on_disk(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, keep=3)
    for version in range(1, 6):
        shelf.put(offer(version))
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        f"00000{v}.safetensors" for v in (3, 4, 5)
    ]
    assert shelf.block(3, 0, 100)[0] == offer(3).data
    with pytest.raises(ValueError, match="on offer: 3, 4, 5"):
        shelf.block(2, 0, 1)


def real(version: int) -> Offer:
    info = WeightsInfo(version=version, parent=version - 1, stage="online", layout_hash="l")
    data = encode_weights(POLICY, info)
    return Offer(info, data, hashlib.sha256(data).hexdigest(), POLICY.spec.spec_hash())


def shelf_with(directory: Path, **states: State) -> Shelf:
    shelf = Shelf(directory)
    for name, state in states.items():
        shelf.put(real(int(name[1:])), state)
    return shelf


def states(shelf: Shelf) -> dict[int, str]:
    return {v: e.state.name for v, e in shelf.entries.items()}


def test_a_new_process_knows_the_newest_version_and_serves_the_old_files(tmp_path: Path) -> None:
    assert Shelf(tmp_path).newest == 0
    shelf_with(tmp_path, v9=ACTIVE, v10=ACTIVE)
    (tmp_path / "000011.safetensors.tmp").write_bytes(b"half")
    again = Shelf(tmp_path)
    assert (again.newest, again.active) == (10, 10)
    assert again.block(9, 0, BLOCK)[0] == real(9).data


def test_a_change_that_cannot_be_recorded_is_none(tmp_path: Path) -> None:
    """Robots were told nothing of it."""
    shelf = shelf_with(tmp_path, v1=ACTIVE, v2=ACTIVE, v3=CANDIDATE)
    before = dict(shelf.entries)
    in_the_way = tmp_path / f"{RECORD}.tmp"
    in_the_way.mkdir()
    for change in (
        lambda: shelf.put(real(4)),
        lambda: shelf.promote(3, "good"),
        lambda: shelf.withdraw(3, "worse"),
        lambda: shelf.roll_back(1, "worse"),
    ):
        with pytest.raises(OSError):
            change()
        assert shelf.entries == before == Shelf(tmp_path).entries
    in_the_way.rmdir()
    shelf.put(real(4))
    assert Shelf(tmp_path).active == 4


def test_a_folder_without_a_record_is_taken_as_it_is(tmp_path: Path) -> None:
    shelf_with(tmp_path, v3=ACTIVE, v4=ACTIVE)
    (tmp_path / RECORD).unlink()
    (tmp_path / "000007.safetensors").write_bytes(b"no weights")
    again = Shelf(tmp_path)
    assert states(again) == {3: "ACTIVE", 4: "ACTIVE"} and again.offer(4) == real(4)


def test_a_rollback_goes_to_the_version_before_and_outlives_the_process(tmp_path: Path) -> None:
    shelf = shelf_with(tmp_path, v1=ACTIVE, v2=ACTIVE, v3=ACTIVE, v4=CANDIDATE)
    assert shelf.roll_back(0, "it drops the cube") == (2, [3, 4])
    for made in (shelf, Shelf(tmp_path)):
        assert (made.active, made.candidate, made.newest, made.held) == (2, 0, 4, True)
        assert made.rolled_back == [3, 4] and made.entries[3].reason == "it drops the cube"
    assert shelf.roll_back(0, "that one too") == (1, [2])
    with pytest.raises(ShelfError, match="version is 0, but no version was in force before 1"):
        shelf.roll_back(0, "again")


@pytest.mark.parametrize(
    ("version", "named"),
    [
        (3, r"version is 3 \(active\), must be one that was in force before 3: 1"),
        (2, r"version is 2 \(rolled_back\), must be one .* before 3: 1"),
        (4, r"version is 4 \(candidate\)"),
        (9, "version 9 is not on offer; on offer: 1, 2, 3, 4"),
    ],
)
def test_a_rollback_to_what_was_not_in_force_is_refused_and_changes_nothing(
    tmp_path: Path, version: int, named: str
) -> None:
    shelf = shelf_with(tmp_path, v1=ACTIVE, v2=ROLLED_BACK, v3=ACTIVE, v4=CANDIDATE)
    before = states(shelf)
    with pytest.raises(ShelfError, match=named):
        shelf.roll_back(version, "why not")
    assert states(shelf) == before == states(Shelf(tmp_path))


def test_a_promotion_releases_what_a_rollback_held(tmp_path: Path) -> None:
    shelf = shelf_with(tmp_path, v1=ACTIVE, v2=ACTIVE)
    shelf.roll_back(1, "worse")
    shelf.put(real(3), CANDIDATE)
    assert shelf.held and shelf.candidate == 3
    shelf.promote(3, "looks good")
    assert not shelf.held and (shelf.active, shelf.candidate) == (3, 0)


def test_only_a_newer_version_that_was_not_rolled_back_can_be_promoted(tmp_path: Path) -> None:
    shelf = shelf_with(tmp_path, v1=ACTIVE, v2=ACTIVE, v3=CANDIDATE)
    shelf.withdraw(3, "mean return 1 must be at least 2")
    with pytest.raises(ShelfError, match="version is 1, must be greater than 2"):
        shelf.promote(1, "")
    with pytest.raises(ShelfError, match="version 3 was rolled back: mean return 1 must be at least 2"):
        shelf.promote(3, "")
    assert shelf.active == 2 and not shelf.held


def test_failed_candidates_do_not_push_out_what_one_may_go_back_to(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, keep=2)
    for version in (1, 2, 3):
        shelf.put(real(version))
    for version in range(4, 12):
        shelf.put(real(version), CANDIDATE)
        shelf.withdraw(version, "worse")
    assert shelf.files() == [2, 3, 10, 11]
    assert shelf.roll_back(0, "older still")[0] == 2


def test_a_damaged_file_is_not_offered(tmp_path: Path) -> None:
    shelf_with(tmp_path, v1=ACTIVE)
    path = tmp_path / "000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShelfError, match=r"000001.safetensors: sha256 is .*, must be "):
        Shelf(tmp_path).offer(1)


@pytest.mark.parametrize("text", ["", "[]", '{"versions": [{"version": 1}]}', '{"versions": 3}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ShelfError, match=r"versions\.json: not a list of versions"):
        Shelf(tmp_path)
