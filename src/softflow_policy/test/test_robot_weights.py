"""What stands between a weights file and the hand: announcement against file, cache, loader thread, alternation."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from softflow_policy.alternation import Alternation
from softflow_policy.cache import RECORD, Cache
from softflow_policy.loaded import LoadedPolicy, load_policy
from softflow_policy.loader import Loader
from softflow_policy.policy import ChunkPolicy
from softflow_policy.spec import PolicySpec
from softflow_policy.versions import Announcement, State
from softflow_policy.weights import WeightsError, WeightsInfo, encode_weights, sha256
from softflow_tasks import make_task

TASK = make_task("CubeRotation-v0")
SPEC = PolicySpec(
    state_dim=TASK.layout.size, action_dim=TASK.action_dim, couplings=2, width=8, critic_width=8
)
POLICY = ChunkPolicy(SPEC)


def weights(version: int) -> bytes:
    return encode_weights(POLICY, WeightsInfo(version=version, layout_hash=TASK.layout.hash))


def said(data: bytes, number: int, **values: Any) -> Announcement:
    whole = Announcement(number, sha256(data), len(data), SPEC.spec_hash(), TASK.layout.hash, State.ACTIVE)
    return dataclasses.replace(whole, **values)


def loaded(version: int) -> LoadedPolicy:
    return load_policy(weights(version), TASK)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"version": 50}, "version of the file is 7, the manifest said 50"),
        ({"spec_hash": "other"}, "spec_hash of the file is '.*', the manifest said 'other'"),
        ({"layout_hash": "other"}, "layout_hash of the file is '.*', the manifest said 'other'"),
        ({"sha256": "0" * 64}, f"sha256 is .*, must be {'0' * 64}"),
    ],
)
def test_a_file_that_is_not_the_announced_one_is_refused(values: dict[str, Any], named: str) -> None:
    data = weights(7)
    assert load_policy(data, TASK, said(data, 7)).info.version == 7
    with pytest.raises(WeightsError, match=named):
        load_policy(data, TASK, said(data, 7, **values))


def test_the_cache_gives_back_what_was_in_force_last(tmp_path: Path) -> None:
    Cache(tmp_path).store(3, weights(3), [])
    Cache(tmp_path).store(4, weights(4), [2, 5])
    again = Cache(tmp_path)
    assert again.load() == weights(4) and again.rolled_back == [2, 5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000004.safetensors", RECORD]
    assert Cache(tmp_path / "none").load() is None


def test_a_stop_between_file_and_record_leaves_the_weights_before(tmp_path: Path) -> None:
    Cache(tmp_path).store(3, weights(3), [])
    (tmp_path / "000004.safetensors").write_bytes(weights(4))
    (tmp_path / f"{RECORD}.tmp").write_bytes(b'{"ver')
    assert Cache(tmp_path).load() == weights(3)


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    Cache(tmp_path).store(3, weights(3), [])
    data = bytearray(weights(3))
    data[-1] ^= 1
    (tmp_path / "000003.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"000003.safetensors: sha256 is .*, must be"):
        Cache(tmp_path).load()
    (tmp_path / "000003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"000003\.safetensors"):
        Cache(tmp_path).load()
    for text in ("{", json.dumps([1])):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(WeightsError, match=RECORD):
            Cache(tmp_path)


def test_checks_run_in_a_thread_of_their_own_with_one_thread_of_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    plan = ChunkPolicy.plan

    def noted(self: ChunkPolicy, *arguments: Any) -> Any:
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return plan(self, *arguments)

    monkeypatch.setattr(ChunkPolicy, "plan", noted)
    loader, data = Loader(TASK, Cache(tmp_path)), weights(2)
    found = loader.load(data, said(data, 2)).result(timeout=30)
    bad = loader.load(data[:-1], said(data, 2))
    stored = loader.store(found, [1])
    loader.close()
    assert found.data == data and stored is not None and stored.result() is None
    assert Cache(tmp_path).load() == data
    assert seen and all(ident != threading.get_ident() and count == 1 for ident, count in seen)
    with pytest.raises(WeightsError, match="sha256"):
        bad.result()


def episodes(
    made: Alternation, names: str, active: LoadedPolicy, candidate: LoadedPolicy | None
) -> list[int]:
    return [made.choose(name, active, candidate).info.version for name in names]


def test_whole_episodes_in_turn_equally_many_of_each() -> None:
    made, active, candidate = Alternation(), loaded(1), loaded(2)
    assert episodes(made, "aabbbccd", active, candidate) == [2, 2, 1, 1, 1, 2, 2, 1]
    assert episodes(made, "efg", active, None) == [1, 1, 1]


def test_a_candidate_does_not_break_into_an_episode_and_counts_anew() -> None:
    made, active = Alternation(), loaded(1)
    assert episodes(made, "a", active, None) == [1]
    assert episodes(made, "aabbc", active, loaded(2)) == [1, 1, 2, 2, 1]
    assert episodes(made, "ccd", active, loaded(3)) == [1, 1, 3]


def test_a_withdrawn_candidate_stops_at_the_next_chunk() -> None:
    made, active = Alternation(), loaded(1)
    assert episodes(made, "aa", active, loaded(2)) == [2, 2]
    assert episodes(made, "ab", active, None) == [1, 1]
