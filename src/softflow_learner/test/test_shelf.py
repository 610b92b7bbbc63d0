"""The shelf: blocks that make up the file, bounds that are named, old versions that go."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import pytest

from softflow_learner.shelf import Offer, Shelf
from softflow_policy.download import BLOCK, Download
from softflow_policy.weights import WeightsInfo


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
    download = Download(1, len(wanted.data), wanted.sha256)
    lengths = []
    while download.length:
        data, size = shelf.block(1, download.offset, download.length)
        lengths.append(len(data))
        download.add(data, zlib.crc32(data), size)
    assert lengths == [BLOCK, BLOCK, 77]
    assert download.offset == len(wanted.data)


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
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"00000{v}.safetensors" for v in (3, 4, 5)]
    assert shelf.block(3, 0, 100)[0] == offer(3).data
    with pytest.raises(ValueError, match="on offer: 3, 4, 5"):
        shelf.block(2, 0, 1)


def test_a_new_process_knows_the_newest_version(tmp_path: Path) -> None:
    assert Shelf(tmp_path).newest_on_disk() == 0
    for version in (9, 10):
        Shelf(tmp_path).put(offer(version))
    (tmp_path / "000011.safetensors.tmp").write_bytes(b"half")
    assert Shelf(tmp_path).newest_on_disk() == 10
