"""OGBench: data, relabelling, replay, cells. Runs where the wheel is installed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow_experiments.ogbench.environment import FAMILIES, available
from softflow_experiments.rollout import acting
from softflow_experiments.trial import InterruptedTrialError, OtherPlanError
from softflow_learner.checkpoint import load_latest
from softflow_learner.replay import Replay
from softflow_policy.policy import DEPLOYED_TEMPERATURE

if not available():
    pytest.skip("ogbench is not installed", allow_module_level=True)

from softflow_experiments.ogbench import report
from softflow_experiments.ogbench.adapter import Labels, fill, pieces, relabel
from softflow_experiments.ogbench.command import main
from softflow_experiments.ogbench.data import ARRAYS, Play, generate, load, save, shard_path

sys.path.insert(0, str(Path(__file__).parent))
import ogbench_tiny as tiny

NAMES = ("puzzle-3x3", "scene")
"""Scene has whatever the others have."""


def short(name: str, seed: int = 0, episodes: int = 2) -> Play:
    return generate(name, seed, 0, tiny.play_env(name), episodes=episodes, steps=100)


# -- Data


@pytest.mark.parametrize("name", NAMES)
def test_play_data_have_the_shapes_they_promise_and_repeat(name: str, tmp_path: Path) -> None:
    found = short(name)
    state, _ = tiny.task_env(name, FAMILIES[name].task).reset(seed=0)
    assert found.observations.shape == (2, 101, len(state)) and found.observations.dtype == np.float32
    assert found.actions.shape == (2, 100, 5) and np.abs(found.actions).max() <= 1.0
    assert found.transitions == 200 and not np.array_equal(found.actions[0], found.actions[1])
    again, other = short(name, episodes=1), short(name, seed=1, episodes=1)
    assert np.array_equal(again.qpos[0], found.qpos[0]) and not np.array_equal(other.qpos[0], found.qpos[0])
    save(shard_path(tmp_path, name, 0, 0), found)
    stored = load(shard_path(tmp_path, name, 0, 0))
    assert all(np.array_equal(getattr(stored, key), getattr(found, key)) for key in ARRAYS)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_looks_the_same_as_in_the_original_environment(name: str) -> None:
    """One look at the state a step instead of three leaves every number as it is."""
    env, actions = tiny.play_env(name), short(name, episodes=1).actions[0]
    ours = type(env)
    seen = []
    for kind in (ours, ours.__mro__[1]):
        env.reset(seed=5)
        env.__class__ = kind
        seen.append([env.step(action) for action in actions])
        env.__class__ = ours
    for (first, *_, told), (second, *_, known) in zip(*seen, strict=True):
        assert np.array_equal(first, second) and told.keys() == known.keys()
        assert all(np.array_equal(told[key], known[key]) for key in known)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_task_episode_depends_on_its_seed_only(name: str) -> None:
    env, actions = tiny.task_env(name, FAMILIES[name].task), some_actions(60)
    seen = []
    for before in (1, 2):
        env.reset(seed=before)
        for action in actions[: 20 * before]:
            env.step(action)
        seen.append([env.reset(seed=7)[0], *(env.step(action)[0] for action in actions)])
    assert np.array_equal(*seen)


def some_actions(count: int) -> Any:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (count, 5)).astype(np.float32)


# -- Rewards


@pytest.mark.parametrize("name", list(FAMILIES))
def test_relabelled_rewards_are_those_of_the_environment(name: str) -> None:
    """Play an episode in the task's own environment, once with its goal where the arm already is: all are solved."""
    env, actions = tiny.task_env(name, FAMILIES[name].task), some_actions(60)
    for solved in (False, True):
        state, _ = env.reset(seed=0)
        if solved:
            _move_goal_here(name, env.unwrapped)
        rows = {"observations": [state], "qpos": [], "button_states": []}
        rewards, ends = [], []
        _note(rows, env)
        for action in actions:
            state, reward, terminated, _, _ = env.step(action)
            rewards.append(reward)
            ends.append(terminated)
            rows["observations"].append(state)
            _note(rows, env)
        recorded = Play(actions=actions[None], **{key: np.array(value)[None] for key, value in rows.items()})
        labels = relabel(recorded, name, _Fixed(env) if solved else env)
        assert labels.rewards[0].tolist() == rewards and labels.success[0].tolist() == ends
        assert any(ends) == solved
        if FAMILIES[name].sparse:
            assert set(rewards) <= {-1.0, 0.0}


class _Fixed:
    """An environment whose reset leaves the goal where it was put."""

    def __init__(self, env: Any) -> None:
        self.unwrapped = env.unwrapped

    def reset(self) -> None:
        pass


def _move_goal_here(name: str, env: Any) -> None:
    if name != "cube-double":
        env._target_button_states = env._cur_button_states.copy()
    if name == "scene":
        env._target_drawer_pos = env._data.joint("drawer_slide").qpos[0]
        env._target_window_pos = env._data.joint("window_slide").qpos[0]
    for index in range(getattr(env, "_num_cubes", 0)):
        place = env._data.joint(f"object_joint_{index}").qpos[:3]
        env._data.mocap_pos[env._cube_target_mocap_ids[index]] = place
    env.post_step()


def _note(rows: dict[str, list[Any]], env: Any) -> None:
    info = env.unwrapped.compute_ob_info()
    rows["qpos"].append(info["qpos"])
    rows["button_states"].append(np.array(info.get("button_states", ()), np.int64))


def test_a_trajectory_is_cut_after_each_solved_state() -> None:
    success = np.array([False, False, True, True, False])
    assert list(pieces(success)) == [(slice(0, 3), True), (slice(3, 4), True), (slice(4, 5), False)]
    assert list(pieces(np.array([False, True]))) == [(slice(0, 2), True)]


def test_success_inside_a_trajectory_does_not_bootstrap_and_the_end_of_one_does() -> None:
    steps, gamma = 8, 0.5
    numbers = np.arange(steps + 1, dtype=np.float32)
    play = Play(
        numbers[None, :, None],
        np.zeros((1, steps, 2), np.float32),
        np.zeros((1, steps + 1, 3)),
        np.zeros((1, steps + 1, 0), np.int64),
    )
    success = np.zeros((1, steps), bool)
    success[0, 3] = True
    replay = Replay(1, 2, 3, gamma)
    fill(replay, play, Labels(np.where(success, 0.0, -1.0).astype(np.float32), success), 0)
    batch = replay.windows(np.arange(steps))
    assert batch.states[:, 0].tolist() == numbers[:-1].tolist()
    assert batch.steps.tolist() == [3, 3, 2, 1, 3, 3, 2, 1]
    assert batch.discounts.tolist() == [gamma**3, 0, 0, 0, gamma**3, gamma**3, gamma**2, gamma]
    assert batch.returns.tolist() == [-1.75, -1.5, -1.0, 0.0, -1.75, -1.75, -1.5, -1.0]
    assert batch.next_states[:, 0].tolist() == [3, 4, 4, 4, 7, 8, 8, 8]


# -- Cells


def weights(directory: Path) -> dict[str, Any]:
    restored = load_latest(directory / "checkpoints")
    assert restored is not None
    return {name: value.numpy() for name, value in restored.agent.policy.state_dict().items()}


def after(calls: int) -> Callable[[], bool]:
    """Says to stop from that call on."""
    count = itertools.count(1)
    return lambda: next(count) >= calls


@pytest.mark.parametrize(
    "planned", [tiny.cell(), tiny.cell(updates=0, online_steps=240)], ids=lambda c: c.kind
)
def test_an_interrupted_cell_ends_with_the_same_bits(
    planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.small(monkeypatch)
    whole = tiny.run(tmp_path / "whole", tmp_path / "data", planned)
    pauses, resumed = 0, None
    while resumed is None:
        try:
            stop = after(10)
            resumed = tiny.run(tmp_path / "pieces", tmp_path / "data", planned, stop=stop)
        except InterruptedTrialError:
            pauses += 1
    assert pauses >= 2
    assert all(resumed[name] == whole[name] for name in ("success", "deployed", "curve"))
    assert resumed["done"] == whole["done"] and sum(whole["done"].values()) > 0
    ours, theirs = weights(tmp_path / "pieces"), weights(tmp_path / "whole")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert json.loads((tmp_path / "pieces" / "result.json").read_text())["success"] == whole["success"]


def test_an_online_part_begins_where_the_offline_cell_ended_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.small(monkeypatch)
    # There is room for play and online steps whatever the replay's capacity is.
    both = tiny.cell(online_steps=120, settings=(*tiny.SETTINGS, ("replay_capacity", 100)))
    whole = tiny.run(tmp_path / "whole", tmp_path / "data", both)
    tiny.run(tmp_path / "offline", tmp_path / "data", both.offline_part)
    said: list[str] = []
    with monkeypatch.context() as context:
        context.setattr(tiny.cells.stages, "run_offline", None)
        options = {"offline": tmp_path / "offline", "log": said.append}
        found = tiny.run(tmp_path / "parts", tmp_path / "data", both, **options)
    assert all(found[name] == whole[name] for name in ("success", "deployed", "curve", "done"))
    assert found["done"]["online"] > 0 and "offline" not in found["seconds"]
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    other = dataclasses.replace(both, seed=1)
    tiny.run(tmp_path / "other", tmp_path / "data", other, **options)
    assert any("learns offline anew" in line and "seed is 0 there" in line for line in said)


def test_a_directory_of_other_settings_or_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.small(monkeypatch)
    found = tiny.run(tmp_path / "cell", tmp_path / "data")
    assert "regenerated with the oracles of ogbench" in found["data"] and found["curve"][0]["updates"] == 10
    with pytest.raises(OtherPlanError, match="updates is 12 there, asked for is 13"):
        tiny.run(tmp_path / "cell", tmp_path / "data", tiny.cell(updates=13))
    path = shard_path(tmp_path / "data", "puzzle-3x3", 0, 0)
    save(path, short("puzzle-3x3", seed=9))
    with pytest.raises(OtherPlanError, match="data_sha256"):
        tiny.run(tmp_path / "cell", tmp_path / "data")


def test_the_last_episodes_are_played_with_all_of_the_noise_then_as_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.small(monkeypatch)
    played: list[float] = []

    def record(agent: Any, temperature: float = 1.0) -> Any:
        played.append(temperature)
        return acting(agent, temperature=temperature)

    monkeypatch.setattr(tiny.cells, "acting", record)
    found = tiny.run(tmp_path / "cell", tmp_path / "data")
    assert played == [1.0] * len(found["curve"]) + [1.0, found["deployed_temperature"]]
    assert found["deployed_temperature"] == DEPLOYED_TEMPERATURE < 1.0
    assert len(found["deployed"]) == len(found["success"]) == found["evaluation_episodes"]


# -- The command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--env", "puzzle"], ["--env", "'puzzle'", "puzzle-3x3"]),
        ([], ["--env", "scene"]),
        (["--env", "scene", "--task", "6"], ["--task", "'6'", "[1, 5]"]),
        (["--env", "scene", "--seed", "x"], ["--seed", "'x'", "whole number"]),
        (["--env", "scene", "--updates", "-1"], ["--updates", "'-1'"]),
        (["--env", "scene", "--transitions", "0"], ["--transitions", "'0'"]),
        (["--colour"], ["--colour"]),
    ],
)
def test_bad_arguments_get_one_line_and_code_2(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    text = capsys.readouterr().err
    assert ended.value.code == 2 and text.count("\n") == 1
    assert all(part in text for part in said), text


@pytest.mark.parametrize(
    ("setting", "said"), [("colour=1", "colour"), ("beta", "name=value"), ("horizon=0", "horizon")]
)
def test_bad_settings_get_one_line(
    setting: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env", "scene", "--out", str(tmp_path), "--set", setting]) == 2
    text = capsys.readouterr().err
    assert said in text and text.count("\n") == 1


def test_report_sets_ours_beside_the_published_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        settings = tiny.cell().settings + ((("precision", "bfloat16"),) if seed else ())
        planned = tiny.cell(seed=seed, updates=100_000, settings=settings)
        path = tmp_path / planned.directory / "result.json"
        path.parent.mkdir(parents=True)
        rest: dict[str, Any] = {
            "success": [1.0, 0.0, 1.0, 1.0],
            "seconds": {"offline": 1800.0},
            "machine": "2 x m",
            "date": "d",
        }
        if seed:
            rest |= {"deployed": [1.0, 1.0], "deployed_temperature": 0.5}
        path.write_text(json.dumps(planned.plan() | rest))
    document = tmp_path / "benchmarks.md"
    document.write_text(f"a\n{report.BEGIN}\nold\n{report.END}\nb\n")
    assert main(["--report", "--out", str(tmp_path), "--document", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("a\n") and text.endswith("\nb\n") and "old" not in text
    row = next(line for line in text.splitlines() if line.startswith("| puzzle-3x3 task4 (sparse)"))
    assert "0.75 [" in row and "seeds 0, 1" in row and "100,000 updates" in row and "| 0.95 | 0.22 |" in row
    assert "deployed at temperature 0.5: 1.00 [1.00, 1.00] (n = 2), seeds 1 |" in row
    assert "10000 transitions" in row and "precision=bfloat16" in row and "beta=" not in row
    assert "regenerated with the oracles of ogbench" in text and "1.0 h together" in text
    older = json.loads(path.read_text())
    del older["settings"]["target_best_of"]
    path.write_text(json.dumps(older))
    assert "target_best_of=1 " in report.write_report(tmp_path), "from before the environment had it set"
    path.write_text("{")
    assert main(["--report", "--out", str(tmp_path)]) == 2
    assert "result.json: damaged" in capsys.readouterr().err
