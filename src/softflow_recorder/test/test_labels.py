"""Labels after the fact: durable, numbered, checked, and used by who reads the episode."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from softflow_recorder.bag import BagError, read_episode
from softflow_recorder.cli import main
from softflow_recorder.labelling import find_bag, label_bag
from softflow_recorder.labels import FILE, LabelError, read_labels

sys.path.insert(0, str(Path(__file__).parent))

from recorder_toy import Toy

TOY = Toy.make()


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return TOY.write(tmp_path / "bags" / "20260101-000000-000000001-0123abcd")


def test_the_newest_revision_of_a_step_is_its_reward(bag: Path) -> None:
    first = label_bag(bag, 2, [0.5, 0.25, 0.125], "vision", 0.75)
    second = label_bag(bag, 4, [1.0, 0.1], "human", 1.0)
    assert (first.revision, second.revision) == (1, 2)
    wanted = TOY.rewards.copy()
    wanted[2:6] = [0.5, 0.25, 1.0, 0.1]
    np.testing.assert_array_equal(read_episode(bag).rewards, wanted)
    assert read_labels(bag) == [first, second]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"values": []}, "values is empty"),
        ({"values": [1.0, math.nan]}, r"values\[1\] is not a finite float32"),
        ({"values": [1e39]}, r"values\[0\] is not a finite float32"),
        ({"start": 11, "values": [0.0, 0.0]}, "start_step is 11 with 2 values, the episode has 12 steps"),
        ({"start": -1}, "start_step is -1"),
        ({"source": "rumour"}, "source is 'rumour', allowed: task, vision, human, classifier"),
        ({"confidence": 1.5}, r"confidence is 1.5, must be in \[0, 1\]"),
        ({"confidence": math.nan}, r"confidence is nan, must be in \[0, 1\]"),
    ],
)
def test_a_bad_label_is_refused_by_field_and_leaves_no_trace(
    bag: Path, change: dict[str, object], named: str
) -> None:
    label_bag(bag, 0, [0.5], "human", 1.0)
    before = (bag / FILE).read_bytes()
    arguments = {"start": 0, "values": [1.0], "source": "human", "confidence": 1.0, **change}
    with pytest.raises(LabelError, match=named):
        label_bag(bag, **arguments)  # type: ignore[arg-type]
    assert (bag / FILE).read_bytes() == before


def test_a_line_that_was_cut_off_is_forgotten_and_overwritten(bag: Path) -> None:
    label_bag(bag, 0, [0.5], "human", 1.0)
    whole = (bag / FILE).read_bytes()
    label_bag(bag, 0, [0.75], "human", 1.0)
    longer = (bag / FILE).read_bytes()
    for size in range(len(whole), len(longer)):
        (bag / FILE).write_bytes(longer[:size])
        assert [label.values for label in read_labels(bag)] == [(0.5,)]
    label_bag(bag, 0, [0.25], "human", 1.0)
    assert [(x.revision, x.values) for x in read_labels(bag)] == [(1, (0.5,)), (2, (0.25,))]


def test_a_damaged_line_is_an_error_that_names_it(bag: Path) -> None:
    label_bag(bag, 0, [0.5], "human", 1.0)
    label_bag(bag, 0, [0.75], "human", 1.0)
    data = bytearray((bag / FILE).read_bytes())
    data[30] ^= 1
    (bag / FILE).write_bytes(data)
    with pytest.raises(BagError, match="line 1 is damaged"):
        read_episode(bag)
    with pytest.raises(LabelError, match="line 1 is damaged"):
        label_bag(bag, 0, [1.0], "human", 1.0)


def test_an_episode_is_found_by_its_id_even_in_a_renamed_bag(bag: Path) -> None:
    Toy.make(seed=1, episode_id="other").write(bag.parent / "other")
    assert find_bag(bag.parent, TOY.episode_id) == bag
    bag.rename(bag.parent / "renamed")
    assert find_bag(bag.parent, TOY.episode_id).name == "renamed"
    with pytest.raises(BagError, match="episode_id is 'nobody'"):
        find_bag(bag.parent, "nobody")


def test_a_first_label_that_is_refused_makes_no_file(bag: Path) -> None:
    with pytest.raises(LabelError):
        label_bag(bag, 0, [], "human", 1.0)
    assert not (bag / FILE).exists()


def test_an_open_bag_cannot_be_labelled(bag: Path) -> None:
    (bag / "metadata.yaml").unlink()
    with pytest.raises(BagError, match="not closed"):
        label_bag(bag, 0, [1.0], "human", 1.0)


def test_the_command_labels_by_bag_and_by_episode_and_shows_it(
    bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(bag), "--start", "3", "--values", "0.5", "0.25", "--confidence", "0.5"]) == 0
    by_id = ["label", TOY.episode_id, "--directory", str(bag.parent), "--start", "0", "--values", "1"]
    assert main(by_id) == 0
    assert "revision 2: steps 0 to 0, human, confidence 1: 1" in capsys.readouterr().out
    assert main(["show", str(bag)]) == 0
    assert "label revision 1: steps 3 to 4, human, confidence 0.5: 0.5, 0.25; 20" in capsys.readouterr().out
    assert main(["label", str(bag), "--start", "99", "--values", "1"]) == 2
    assert "start_step is 99" in capsys.readouterr().err


def test_the_command_calls_several_episodes_a_success_or_none_of_them(
    bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Toy.make(seed=1, steps=9, episode_id="other").write(bag.parent / "other")
    assert main(["label", str(bag), str(other), "--success", "--reward", "0.5", "--confidence", "0.75"]) == 0
    assert "revision 1: steps 8 to 8, human, confidence 0.75: 0.5" in capsys.readouterr().out
    for path, steps in ((bag, 12), (other, 9)):
        episode = read_episode(path)
        assert episode.rewards[steps - 1] == 0.5 and episode.reward_sources[steps - 1] == "human"
        np.testing.assert_array_equal(episode.reward_sources[: steps - 1], [""] * (steps - 1))
    assert main(["label", str(bag), "--failure", "--source", "vision"]) == 0
    assert (read_episode(bag).rewards[-1], read_episode(bag).reward_sources[-1]) == (0.0, "vision")
    assert read_episode(bag, without=("vision",)).rewards[-1] == 0.5
    before = [read_labels(path) for path in (bag, other)]
    assert main(["label", str(bag), "nobody", "--directory", str(bag.parent), "--success"]) == 2
    assert "episode_id is 'nobody'" in capsys.readouterr().err
    for wrong, named in (
        (["--start", "10", "--values", "1", "1"], "start_step is 10 with 2 values, the episode has 9 steps"),
        (["--values", "1"], "--start and --values: one is given"),
        (["--success", "--confidence", "2"], "confidence is 2.0, must be in [0, 1]"),
    ):
        assert main(["label", str(bag), str(other), "--directory", str(bag.parent), *wrong]) == 2
        assert named in capsys.readouterr().err
    assert [read_labels(path) for path in (bag, other)] == before
