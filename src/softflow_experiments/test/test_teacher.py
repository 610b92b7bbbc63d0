"""The teacher: its file is data that is checked, its training goes on, and it acts as Stable-Baselines3 would."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from softflow_experiments.privileged import (
    FILE,
    PARAMETERS,
    PrivilegedCubeEnv,
    TeacherError,
    load_teacher,
    load_teacher_file,
    privileged,
    save_teacher,
)
from softflow_sim.dynamics import SHIFTED, TRAINING, Dynamics

sys.path.insert(0, str(Path(__file__).parent))
from teacher_toy import tensors, toy_teacher


def test_a_teacher_comes_back_as_it_was(tmp_path: Path) -> None:
    teacher = toy_teacher(tmp_path)
    wanted = tensors()
    assert teacher.steps == 7
    state = np.random.default_rng(1).standard_normal(34).astype(np.float32)
    x = np.clip(privileged(state, SHIFTED), -8, 8)
    for layer in (0, 2):
        name = f"policy/mlp_extractor.policy_net.{layer}"
        x = np.tanh(wanted[f"{name}.weight"] @ x + wanted[f"{name}.bias"])
    x = wanted["policy/action_net.weight"] @ x + wanted["policy/action_net.bias"]
    np.testing.assert_array_equal(teacher(state, SHIFTED), np.clip(x, -1, 1))
    assert (teacher(state, SHIFTED) != teacher(state, Dynamics())).any()  # it does look at the dynamics


def broken(directory: Path, kind: str) -> None:
    """Damage the file of `toy_teacher`."""
    path = directory / FILE
    found = load_file(path)
    about = {
        "format": "softflow-teacher/1",
        "parameters": PARAMETERS,
        "widths": [16, 16],
        "about": {"steps": 1},
    }
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
        return
    if kind == "empty":
        path.write_bytes(b"")
        return
    if kind == "foreign":
        about["format"] = "softflow-policy/1"
    if kind == "other dynamics":
        about["parameters"] = "0" * 64
    if kind == "widths":
        about["widths"] = [16, 10**9]
    if kind == "steps":
        about["about"] = {"steps": "many"}
    if kind == "shape":
        found["policy/action_net.bias"] = np.zeros(9, np.float32)
    if kind == "not finite":
        found["policy/action_net.bias"] = np.full(8, np.nan, np.float32)
    if kind == "std":
        found["policy/features_extractor.normalizer.std"][3] = 0.0
    path.write_bytes(save(found, {"softflow": json.dumps(about)}))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("truncated", "not a usable safetensors file"),
        ("empty", "not a usable safetensors file"),
        ("foreign", "format is 'softflow-policy/1', must be 'softflow-teacher/1'"),
        ("other dynamics", "parameters is '0000.*made for another observation"),
        ("widths", r"widths is \[16, 1000000000\], must be"),
        ("steps", "about.steps is 'many', must be an integer >= 0"),
        ("shape", r"'policy/action_net.bias' has shape \(9,\), must have \(8,\)"),
        ("not finite", "'policy/action_net.bias' has numbers that are not finite"),
        ("std", "minimum 0.0, must be > 0"),
    ],
)
def test_a_file_that_is_not_a_teacher_is_refused(tmp_path: Path, kind: str, text: str) -> None:
    toy_teacher(tmp_path)
    broken(tmp_path, kind)
    with pytest.raises(TeacherError, match=f"{FILE}.*{text}"):
        load_teacher(tmp_path)


def test_a_training_that_diverged_leaves_the_good_file(tmp_path: Path) -> None:
    teacher = toy_teacher(tmp_path)
    bad = tensors() | {"policy/action_net.bias": np.full(8, np.inf, np.float32)}
    with pytest.raises(TeacherError, match="not finite"):
        save_teacher(tmp_path, bad, (16, 16), {"steps": 8})
    assert load_teacher(tmp_path).steps == teacher.steps == 7


def test_a_missing_teacher_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=FILE):
        load_teacher(tmp_path / "nowhere")


def test_the_privileged_environment_appends_the_dynamics_and_charges_for_jerks() -> None:
    plain, smooth = PrivilegedCubeEnv(TRAINING), PrivilegedCubeEnv(TRAINING, smoothness=0.5)
    observed, _ = plain.reset(seed=3)
    smooth.reset(seed=3)
    np.testing.assert_array_equal(observed[34:], plain.inner.dynamics.vector().astype(np.float32))
    action = np.tile([0.5, -1.0], 4).astype(np.float32)  # From the rest action: half of the numbers by 0.5.
    assert plain.step(action)[1] - smooth.step(action)[1] == pytest.approx(0.5 * 0.5 * 0.25)
    assert plain.step(action)[1] == smooth.step(action)[1]


def test_ppo_learns_saves_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo = pytest.importorskip("softflow_experiments.teacher_ppo")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    config = ppo.TeacherConfig(
        width=16,
        demonstrations=2,
        imitation_updates=5,
        environments=2,
        rollout_steps=16,
        batch_size=16,
        epochs=1,
        evaluation_episodes=1,
    )
    training = ppo.TeacherTraining(tmp_path, config, log=lambda text: None)
    before = training.teacher()
    after = training.run(steps=64, save_every=32, stop=lambda: False)
    assert after.steps == 64 and not np.array_equal(before.layers[0][0], after.layers[0][0])
    state = np.random.default_rng(0).standard_normal(34).astype(np.float32)
    wanted, _ = training.model.predict(privileged(state, SHIFTED), deterministic=True)
    np.testing.assert_allclose(after(state, SHIFTED), wanted, atol=1e-5)

    again = ppo.TeacherTraining(tmp_path, config, log=lambda text: None)
    assert again.model.num_timesteps == 64 and again.history == training.history
    for name, tensor in training.model.policy.state_dict().items():
        torch.testing.assert_close(again.model.policy.state_dict()[name], tensor, rtol=0, atol=0)
    moments, found = (t.model.policy.optimizer.state_dict()["state"] for t in (training, again))
    assert moments.keys() == found.keys()
    assert all(torch.equal(moments[i][name], found[i][name]) for i in moments for name in moments[i])
    assert again.run(steps=96, save_every=32, stop=lambda: False).steps == 96
    assert load_teacher_file(tmp_path).about["steps"] == 96
    assert list(temporary.glob("SB3-*")) == []


def test_another_width_than_the_file_s_is_refused(tmp_path: Path) -> None:
    ppo = pytest.importorskip("softflow_experiments.teacher_ppo")
    toy_teacher(tmp_path)
    with pytest.raises(TeacherError, match="'policy/log_std' has shape None"):
        ppo.TeacherTraining(
            tmp_path, ppo.TeacherConfig(environments=1, width=16, batch_size=256), log=lambda text: None
        )
