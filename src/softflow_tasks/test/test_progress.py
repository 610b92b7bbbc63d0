"""The index of the next episode over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from softflow_tasks.progress import EpisodeCount


def test_a_restart_within_a_run_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "run" / "episodes.json"
    count = EpisodeCount(path, "run-a", 5)
    assert count.index == 5
    for _ in range(3):
        count.advance()
    assert EpisodeCount(path, "run-a", 5).index == 8


def test_another_run_and_an_unknown_one_begin_at_their_first_index(tmp_path: Path) -> None:
    path = tmp_path / "episodes.json"
    EpisodeCount(path, "run-a", 0).advance()
    assert EpisodeCount(path, "run-b", 0).index == 0
    assert EpisodeCount(path, "run-a", 3).index == 3
    unknown = EpisodeCount(path, "", 0)
    unknown.advance()
    assert unknown.index == 1
    assert EpisodeCount(path, "run-a", 0).index == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"run_id": "a"}', '{"run_id": "a", "first": 0, "next": "x"}']
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "episodes.json"
    path.write_text(text)
    count = EpisodeCount(path, "a", 0)
    assert count.index == 0
    count.advance()
    assert EpisodeCount(path, "a", 0).index == 1
