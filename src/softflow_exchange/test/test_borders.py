"""Episode borders, rewards, ends, and what is refused: each on a real bag."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from softflow_exchange.cli import main
from softflow_recorder.bag import episode_bags, read_episode
from softflow_recorder.episode import EpisodeData
from softflow_tasks import ToolCut, gantry

sys.path.insert(0, str(Path(__file__).parent))

from exchange_toy import BEGIN, LATE, MAPPING, SECOND, TASK, Lab, LabBag, layout, run, write_lab_bag


def write_session(path: Path, events: dict[float, str] | None = None) -> Path:
    """Six seconds with a pause from 2 s to 4 s; the flag /lab/success is true from 0.5 to 1.5 s and from 4.5 s on."""
    lab, bag = Lab(seconds=6.0), LabBag(path)
    told = dict(events or {})
    for time, position, target, yaw in zip(
        lab.times, lab.positions(), lab.targets(), lab.yaws(), strict=True
    ):
        t = (time - BEGIN) / SECOND
        for when in [when for when in told if when <= t]:
            bag.text(int(time), told.pop(when))
        if 2.0 < t < 4.0:
            continue
        bag.joints(time, position, time + LATE)
        bag.cube(time, yaw, time + LATE)
        bag.glove(time, target, time + LATE)
        bag.success(int(time), 0.5 <= t < 1.5 or t >= 4.5)
    bag.close()
    return path


def steps(episodes: list[EpisodeData]) -> list[int]:
    return sorted(episode.steps for episode in episodes)


def test_a_silence_ends_an_episode(tmp_path: Path) -> None:
    # From 0 to 2 s and from 4 to 5.98 s.
    assert steps(run(tmp_path, write_session(tmp_path / "bag"), episodes={"by": "gap", "gap": 0.5})) == [
        39,
        40,
    ]


def test_a_flag_marks_episodes(tmp_path: Path) -> None:
    # While it is true: 0.5 to 1.48 s and 4.5 to 5.98 s.
    bag = write_session(tmp_path / "bag")
    assert steps(run(tmp_path, bag, episodes={"by": "flag", "input": "done"})) == [19, 29]


@pytest.mark.parametrize(("stop", "wanted"), [("end", [19, 29]), ("", [19, 39])])
def test_events_mark_episodes(tmp_path: Path, stop: str, wanted: list[int]) -> None:
    events = {0.0: "hello", 0.5: "go", 1.5: "end", 4.0: "go", 5.5: "end"}
    inputs = {**MAPPING["inputs"], "event": {"topic": "/lab/event", "field": "data", "time": "receive"}}
    how = {"by": "event", "input": "event", "start": "go", "stop": stop}
    found = run(tmp_path, write_session(tmp_path / "bag", events), inputs=inputs, episodes=how)
    if stop:
        assert steps(found) == wanted
    else:  # the next start ends the first, which the pause cuts at 2 s
        assert steps(found) == [30, 39]


def test_a_sparse_reward_comes_at_the_end_of_a_success(tmp_path: Path) -> None:
    bags = [write_lab_bag(tmp_path / "good"), write_lab_bag(tmp_path / "bad", Lab(seed=1), success=False)]
    found = run(tmp_path, *bags, reward={"by": "sparse", "value": 2.0}, terminated="success")
    good, bad = sorted(found, key=lambda episode: -episode.rewards.sum())
    assert good.rewards.tolist() == [0.0] * 78 + [2.0] and good.success and good.terminated
    assert not bad.rewards.any() and not bad.success and bad.truncated


@pytest.mark.parametrize("take", ["value", "sum"])
def test_a_reward_may_be_recorded(tmp_path: Path, take: str) -> None:
    lab, bag = Lab(), LabBag(tmp_path / "bag")
    for i, (time, position, target, yaw) in enumerate(
        zip(lab.times, lab.positions(), lab.targets(), lab.yaws(), strict=True)
    ):
        bag.joints(time, position, time)
        bag.cube(time, yaw, time)
        bag.glove(time, target, time)
        bag.write("/lab/reward", "std_msgs/msg/Float32", int(time), data=float(i))
    bag.close()
    reward = {"topic": "/lab/reward", "field": "data", "time": "receive", "resample": "hold"}
    inputs = {**MAPPING["inputs"], "reward": reward}
    (found,) = run(
        tmp_path,
        tmp_path / "bag",
        inputs=inputs,
        reward={"by": "input", "input": "reward", "take": take},
        success={"by": "never"},
        terminated="never",
    )
    # Messages up to each control step, every 50 ms at 20 ms a message: 0 2 5 7 10 ...
    last = np.arange(80) * 50 // 20
    wanted = last[1:] if take == "value" else [sum(range(a + 1, b + 1)) for a, b in itertools.pairwise(last)]
    np.testing.assert_allclose(found.rewards, wanted)
    assert not found.success and found.truncated


def test_the_task_ends_an_episode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 21 s: the cube task's time limit is 20 s.
    (found,) = run(tmp_path, write_lab_bag(tmp_path / "long", Lab(seconds=21.0)))
    assert found.steps == 400 and found.truncated and found.cause == "time_limit"
    assert "ends an episode after 400 of 419 steps (time_limit)" in capsys.readouterr().out


def test_targets_beyond_the_tasks_range_are_clipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {**MAPPING["inputs"], "targets": {**MAPPING["inputs"]["targets"], "scale": 1.5}}
    (found,) = run(tmp_path, write_lab_bag(tmp_path / "bag"), inputs=inputs)
    out = capsys.readouterr().out
    assert np.abs(found.actions).max() == 1.0
    assert "values of actions are clipped to [-1, 1], the worst by" in out
    assert "joint targets differ from what the task's actions can reach by up to" in out


def test_velocities_are_followed_to_the_recorded_targets(tmp_path: Path) -> None:
    """The tool task's gantry: targets in metres become velocities; a jump is made up for, not lost."""
    task = ToolCut()
    bag, count = LabBag(tmp_path / "bag"), 101
    targets = np.zeros((count, 11))
    targets[:, 0] = np.linspace(0.0, 0.04, count)
    targets[50:, 1] = 0.02  # at once: at 0.12 m/s it takes four steps
    targets[:, 3:] = gantry.finger_joints(np.full(4, -0.5))
    for i, row in enumerate(targets):
        time = BEGIN + i * 20_000_000
        empty = np.zeros(0)
        header = bag.header(time)
        joints = {"header": header, "name": list(task.joint_names), "velocity": empty, "effort": empty}
        bag.write("/j", "sensor_msgs/msg/JointState", time, position=targets[0], **joints)
        bag.write("/t", "sensor_msgs/msg/JointState", time, position=row * 1000.0, **joints)
        bag.write("/s", "std_msgs/msg/Float64MultiArray", time, layout=layout(bag), data=np.arange(31.0))
    bag.close()
    units = ["mm"] * 3 + ["mrad"] * 8
    mapping = {
        "task": task.id,
        "time": "receive",
        "inputs": {
            "targets": {"topic": "/t", "field": "position", "unit": units, "resample": "hold"},
            "state": {"topic": "/s", "field": "data"},
        },
        "state": {"vector": "state"},
        "action": {"joints": "targets"},
        "reward": {"by": "sparse"},
        "success": {"by": "always"},
        "terminated": "success",
    }
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    arguments = ["--mapping", str(tmp_path / "mapping.yaml"), "--out", str(tmp_path / "out")]
    assert main(["import", *arguments, str(tmp_path / "bag")]) == 0
    (found,) = [read_episode(path) for path in episode_bags(tmp_path / "out")]
    command = targets[0]
    reached = []
    for action in found.actions:
        command = task.action_to_joints(action.astype(np.float64), command)
        reached.append(command)
    wanted = targets[np.arange(found.steps) * 50 // 20]
    np.testing.assert_allclose(np.array(reached)[:, 0], wanted[:, 0], atol=1e-6)
    np.testing.assert_allclose(np.array(reached)[-1], wanted[-1], atol=1e-6)
    assert np.flatnonzero(np.abs(found.actions[:, 1]) == 1.0).tolist() == [20, 21, 22]


def test_blocks_of_the_layout_come_from_inputs(tmp_path: Path) -> None:
    """Also with a command that is recorded two messages late, and with the action before as a block."""
    bag, sizes = LabBag(tmp_path / "bag"), {"a": 12, "b": 3, "c": 2, "d": 3, "e": 3, "f": 3}
    for i in range(101):
        for name, size in sizes.items():
            row = i + np.arange(size) / 100.0
            bag.write(
                f"/{name}",
                "std_msgs/msg/Float64MultiArray",
                BEGIN + i * 50_000_000,
                layout=layout(bag),
                data=row,
            )
        action = np.full(8, (i - 2) / 100.0)
        bag.write(
            "/u", "std_msgs/msg/Float64MultiArray", BEGIN + i * 50_000_000, layout=layout(bag), data=action
        )
    bag.close()
    inputs: dict[str, Any] = {name: {"topic": f"/{name}", "field": "data"} for name in sizes}
    inputs["a"] |= {"scale": 2.0, "offset": [1.0] * 12}
    inputs["u"] = {"topic": "/u", "field": "data", "shift": 0.1, "max_age": 0.01}
    blocks = {
        "joint_position": "a",
        "last_action": "last_action",
        "cube_offset": "b",
        "yaw4": "c",
        "cube_up": "d",
    }
    blocks |= {"cube_linear_velocity": "e", "cube_angular_velocity": "f"}
    (found,) = run(
        tmp_path,
        tmp_path / "bag",
        time="receive",
        inputs=inputs,
        state={"blocks": blocks},
        action={"normalised": "u"},
        reward={"by": "sparse"},
        success={"by": "never"},
        terminated="always",
    )
    # The last two commands would come after the end.
    assert found.steps == 99 and found.terminated and not found.rewards.any()
    np.testing.assert_allclose(found.actions, np.tile(np.arange(99)[:, None] / 100.0, (1, 8)), atol=1e-6)
    slices, steps_ = TASK.layout.slices(), np.arange(100)[:, None]
    np.testing.assert_allclose(
        found.states[:, slices["joint_position"]], (steps_ + np.arange(12) / 100.0) * 2.0 + 1.0, rtol=1e-6
    )
    np.testing.assert_allclose(found.states[:, slices["cube_up"]], steps_ + np.arange(3) / 100.0, rtol=1e-6)
    np.testing.assert_array_equal(found.states[1:, slices["last_action"]], found.actions)
    np.testing.assert_array_equal(found.states[0, slices["last_action"]], TASK.rest_action())


# -- What is refused, and said


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], bag: Path, **changes: Any) -> str:
    assert run(tmp_path, bag, code=1, **changes) == []
    return capsys.readouterr().out


def test_a_missing_topic_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = {**MAPPING["inputs"], "done": {"topic": "/lab/done", "field": "data", "time": "receive"}}
    text = refused(tmp_path, capsys, write_lab_bag(tmp_path / "bag"), inputs=inputs)
    assert "MISSING /lab/done" in text and "input 'done': there is no such topic, or it is empty" in text


def test_a_missing_field_or_joint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joints = {**MAPPING["inputs"]["joints"], "field": "angle"}
    text = refused(
        tmp_path, capsys, write_lab_bag(tmp_path / "bag"), inputs={**MAPPING["inputs"], "joints": joints}
    )
    assert "passed over 200: 'angle': there is no field 'angle'; fields here: header, name, position" in text
    joints = {**MAPPING["inputs"]["joints"], "order": ["thumb"]}
    text = refused(tmp_path, capsys, tmp_path / "bag", inputs={**MAPPING["inputs"], "joints": joints})
    assert "'name' lacks 'thumb'; has pip_a" in text


def test_a_wrong_number_of_values_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joints = {**MAPPING["inputs"]["joints"], "order": ["abd_a", "mcp_a"]}
    text = refused(
        tmp_path, capsys, write_lab_bag(tmp_path / "bag"), inputs={**MAPPING["inputs"], "joints": joints}
    )
    assert "input 'joints': has 2 values, must have 12" in text


def test_a_type_without_a_header_has_no_header_stamp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = {"topic": "/lab/success", "field": "data"}
    text = refused(
        tmp_path, capsys, write_lab_bag(tmp_path / "bag"), inputs={**MAPPING["inputs"], "done": done}
    )
    assert "inputs.done.time is 'header', but std_msgs/msg/Bool of topic '/lab/success' has no header" in text


def test_clocks_that_differ_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab, bag = Lab(), LabBag(tmp_path / "bag")
    for time, position, target, yaw in zip(
        lab.times, lab.positions(), lab.targets(), lab.yaws(), strict=True
    ):
        bag.joints(time, position, time + 5 * SECOND)
        bag.cube(time, yaw, time + 5 * SECOND)
        bag.glove(time, target, time + 5 * SECOND)
    bag.success(lab.times[-1] + 5 * SECOND, True)
    bag.close()
    text = refused(tmp_path, capsys, tmp_path / "bag")
    assert "header stamps are 5.000 s before the receive times, must be within 1 s" in text


def test_values_that_are_not_finite_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, bag = Lab(), LabBag(tmp_path / "bag")
    for i, (time, position, target, yaw) in enumerate(
        zip(lab.times, lab.positions(), lab.targets(), lab.yaws(), strict=True)
    ):
        bag.joints(time, position * (np.nan if i == 7 else 1.0), time + LATE)
        bag.cube(time, yaw, time + LATE)
        bag.glove(time, target, time + LATE)
    bag.success(lab.times[-1] + LATE, True)
    bag.close()
    (found,) = run(tmp_path, tmp_path / "bag")
    assert found.steps == 79 and "passed over 1: a value is not finite" in capsys.readouterr().out


def test_a_damaged_bag_is_named_and_the_others_are_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = write_lab_bag(tmp_path / "bad"), write_lab_bag(tmp_path / "good")
    (file,) = bad.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:5000])
    assert len(run(tmp_path, bad, good, tmp_path / "nowhere", code=1)) == 1
    text = capsys.readouterr().out
    assert f"{bad}: cannot be read" in text and f"{tmp_path / 'nowhere'}: cannot be read" in text
    assert "1 successful, 2 problems" in text


def test_a_second_import_of_the_same_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_lab_bag(tmp_path / "bag")
    assert len(run(tmp_path, bag)) == 1
    assert len(run(tmp_path, bag, code=2)) == 1
    assert "is there already: this episode was imported before" in capsys.readouterr().err
    assert not (tmp_path / "out.partial").exists()


def test_remains_of_an_interrupted_import_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.partial").mkdir()
    assert run(tmp_path, write_lab_bag(tmp_path / "bag"), code=2) == []
    assert "out.partial: is left of an import that was interrupted" in capsys.readouterr().err


def test_joints_beyond_the_hands_limits_are_pointed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joints = {**MAPPING["inputs"]["joints"], "unit": "rad"}
    run(tmp_path, write_lab_bag(tmp_path / "bag"), inputs={**MAPPING["inputs"], "joints": joints})
    text = capsys.readouterr().out
    assert "input 'joints': 9" in text and "% of the values are beyond the hand's limits" in text


@pytest.mark.parametrize("kept", [0, 1, 8, 100, 3_000, 20_000, -1, -9, -200])
def test_a_bag_that_was_cut_off_anywhere_is_refused_in_words(
    tmp_path: Path, kept: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_lab_bag(tmp_path / "bag", Lab(seconds=1.0))
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:kept])
    assert f"PROBLEM: {bag}: cannot be read" in refused(tmp_path, capsys, bag)
