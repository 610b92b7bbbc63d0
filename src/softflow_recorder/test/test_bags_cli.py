"""`softflow bags`: what it prints, what it exits with, what it exports."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from softflow_msgs.msg import EpisodeEvent

from softflow_recorder.cli import main

sys.path.insert(0, str(Path(__file__).parent))

from recorder_toy import Toy

TIMED_OUT = Toy.make(seed=1, steps=12, episode_id="aa")
DROPPED = Toy.make(seed=2, steps=9, episode_id="bb", kind=EpisodeEvent.TERMINATED)


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    folder = tmp_path / "bags"
    TIMED_OUT.write(folder / "1-aa")
    DROPPED.write(folder / "2-bb")
    return folder


def truncate(bag: Path) -> None:
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-200])


def test_list_is_a_table(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DROPPED.write(bags / "3-part", DROPPED.messages()[:4], complete="false")
    DROPPED.write(bags / "4-open")
    (bags / "4-open" / "metadata.yaml").unlink()
    DROPPED.write(bags / "5-bad")
    (bags / "5-bad" / "metadata.yaml").write_text("nonsense")
    assert main(["list", str(bags)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "complete", "mode", "source", "steps", "metrics", "label"]
    assert lines[1].split() == ["1-aa", "yes", "demo", "teacher", "12", "rotations_per_minute", "2.50"]
    assert [line.split()[:2] for line in lines[2:]] == [
        ["2-bb", "yes"],
        ["3-part", "no"],
        ["4-open", "not"],
        ["5-bad", "damaged"],
    ]


def test_list_tells_what_was_said_of_an_episode_afterwards(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(bags / "1-aa"), "--failure"]) == 0
    assert main(["label", str(bags / "1-aa"), "--success"]) == 0
    assert main(["label", str(bags / "2-bb"), "--failure", "--source", "classifier"]) == 0
    (bags / "2-bb" / "labels").open("a").write("nonsense\n")
    capsys.readouterr()
    assert main(["list", str(bags)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][-2:] == ["human", "1"] and lines[2][-1] == "damaged"


def test_show_counts_topics_and_prints_custom_data(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(bags / "1-aa")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["13", "/hand0/observation", "softflow_msgs/msg/Observation"] in [line.split() for line in lines]
    assert "episode_id: aa" in lines and "format: softflow/1" in lines


def test_show_of_what_is_no_bag_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert "metadata.yaml is missing" in capsys.readouterr().err


def test_check_passes_over_good_and_honestly_incomplete_bags(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DROPPED.write(bags / "3-part", DROPPED.messages()[:4], complete="false")
    assert main(["check", str(bags)]) == 0
    out = capsys.readouterr().out
    assert "1-aa: ok, 12 steps" in out and "2-bb: ok, 9 steps" in out and "3 bags, 0 broken" in out
    assert "3-part: readable (4 messages), marked as incomplete" in out


def test_check_names_each_broken_bag_and_exits_with_1(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncate(bags / "2-bb")
    DROPPED.write(bags / "3-lies", DROPPED.messages()[:4])  # says that it is complete
    DROPPED.write(bags / "4-part", DROPPED.messages()[:4], complete="false")
    truncate(bags / "4-part")
    assert main(["check", str(bags)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in lines[1:4]] == ["BROKEN"] * 3
    assert "truncated" in lines[1] and "missing the end of the episode" in lines[2]
    assert lines[-1] == "4 bags, 3 broken"


def test_repair_closes_what_was_left_open_and_keeps_what_was_changed(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bags / "1-aa" / "metadata.yaml").unlink()
    flipped = bags / "2-bb" / "2-bb.mcap"
    data = bytearray(flipped.read_bytes())
    data[-100] ^= 1
    flipped.write_bytes(data)
    assert main(["check", str(bags)]) == 1
    assert main(["repair", str(bags)]) == 0
    out = capsys.readouterr().out
    assert "2 bags, 2 broken" in out
    assert "1-aa: " in out and "messages recovered, complete" in out
    assert "the original is in 2-bb.damaged" in out
    assert main(["check", str(bags)]) == 0
    assert "2 bags, 0 broken" in capsys.readouterr().out
    assert main(["repair", str(bags)]) == 0
    assert capsys.readouterr().out == "", "nothing is left to do"


def test_a_recovered_beginning_is_listed_and_checked_as_such(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TIMED_OUT.write(bags / "1-aa-cut", TIMED_OUT.messages()[:-1])
    (bags / "1-aa-cut" / "metadata.yaml").unlink()
    assert main(["repair", str(bags)]) == 0
    assert main(["list", str(bags)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1-aa-cut", "recovered", "demo", "teacher", "12"] in rows
    assert main(["check", str(bags)]) == 0
    assert "12 steps can be used), marked as incomplete: " in capsys.readouterr().out


def test_repair_says_what_it_cannot_repair(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bags / "1-aa" / "1-aa.mcap").unlink()
    assert main(["repair", str(bags)]) == 1
    assert "NOT REPAIRED" in capsys.readouterr().out
    assert main(["repair", str(bags / "nowhere")]) == 2


def test_export_is_what_other_learners_read(bags: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "demos.npz"
    assert main(["export", str(bags), str(file)]) == 0
    with np.load(file) as stored:
        data = dict(stored)
    assert {name: value.shape for name, value in data.items()} == {
        "observations": (21, 34),
        "actions": (21, 8),
        "rewards": (21,),
        "masks": (21,),
        "terminals": (21,),
        "next_observations": (21, 34),
    }
    assert all(value.dtype == np.float32 for value in data.values())
    both = (TIMED_OUT, DROPPED)
    np.testing.assert_array_equal(data["observations"], np.concatenate([e.states[:-1] for e in both]))
    np.testing.assert_array_equal(data["next_observations"], np.concatenate([e.states[1:] for e in both]))
    np.testing.assert_array_equal(data["actions"], np.concatenate([e.actions for e in both]))
    np.testing.assert_array_equal(data["rewards"], np.concatenate([e.rewards for e in both]))
    assert np.flatnonzero(data["terminals"]).tolist() == [11, 20]
    assert np.flatnonzero(data["masks"] == 0).tolist() == [20]


def test_export_leaves_out_what_cannot_be_used_and_says_so(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(bags / "1-aa")
    Toy.make(seed=3, layout_hash="other").write(bags / "3-other")
    Toy.make(seed=4, kind=EpisodeEvent.DISCARDED).write(bags / "4-discarded")
    assert main(["export", str(bags), str(tmp_path / "x.npz")]) == 0
    out, err = capsys.readouterr()
    assert "1 episodes, 9 steps" in out
    lines = err.splitlines()
    assert len(lines) == 3 and all(line.startswith("left out: ") for line in lines)
    assert "1-aa" in lines[0] and "layout_hash is 'other'" in lines[1] and "discarded" in lines[2]


def test_export_of_nothing_writes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), str(tmp_path / "x.npz")]) == 1
    assert "holds no complete episode" in capsys.readouterr().err and not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("command", [["list"], ["check"], ["export", "x.npz"]])
def test_a_directory_that_is_none_exits_with_2(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], str(tmp_path / "nowhere"), *command[1:]]) == 2
    assert "is not a directory" in capsys.readouterr().err
