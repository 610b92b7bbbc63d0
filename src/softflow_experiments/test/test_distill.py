"""Distillation: a label is what the teacher would do, and a whole small run leaves what the stages go on from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from softflow_experiments.dagger import (
    LabelledChunks,
    imitation_batch,
    student_episode,
    teacher_chunk,
    teacher_episode,
)
from softflow_experiments.distill import Distillation, DistillConfig, main
from softflow_experiments.privileged import TASK
from softflow_experiments.rollout import acting
from softflow_learner.session import Session, new_agent
from softflow_policy.loaded import load_policy
from softflow_sim.dynamics_env import DynamicCubeEnv

sys.path.insert(0, str(Path(__file__).parent))
from teacher_toy import toy_teacher

SMALL = {"width": 16, "couplings": 2, "critic_width": 16, "batch_size": 16}


def test_a_label_is_the_chunk_that_the_teacher_executes_and_leaves_the_episode_alone(tmp_path: Path) -> None:
    teacher = toy_teacher(tmp_path)
    env = DynamicCubeEnv("randomised")
    state, _ = env.reset(seed=5)
    for _ in range(7):
        state, *_ = env.step(np.tile([0.1, 0.4], 4).astype(np.float32))
    label = teacher_chunk(env, teacher, state, 5)
    assert label is not None and label.shape == (5, 8)
    executed, states = [], []
    for _ in range(5):
        executed.append(teacher(state, env.dynamics))
        state, *_ = env.step(executed[-1])
        states.append(state)
    np.testing.assert_array_equal(label, executed)
    # The same chunk, played open loop from the same state, leads through the same states: labels are true chunks.
    env.reset(seed=5)
    for _ in range(7):
        env.step(np.tile([0.1, 0.4], 4).astype(np.float32))
    for action, wanted in zip(label, states, strict=True):
        np.testing.assert_array_equal(env.step(action)[0], wanted)


def test_no_label_where_the_episode_ends_before_the_chunk_does(tmp_path: Path) -> None:
    teacher = toy_teacher(tmp_path)
    env = DynamicCubeEnv("nominal")
    state, _ = env.reset(seed=0)
    rest = TASK.rest_action().astype(np.float32)
    for _ in range(TASK.horizon - 4):
        state, *_ = env.step(rest)
    assert teacher_chunk(env, teacher, state, 5) is None
    assert teacher_chunk(env, teacher, state, 4) is not None


def test_the_mixture_decides_who_acts(tmp_path: Path) -> None:
    teacher = toy_teacher(tmp_path)
    student = acting(new_agent(TASK, SMALL), 1)

    def labels(beta: float) -> LabelledChunks:
        data = LabelledChunks()
        env = DynamicCubeEnv("randomised")
        student_episode(env, teacher, student, seed=3, beta=beta, label_every=1, data=data)
        return data

    alone = LabelledChunks()
    teacher_episode(DynamicCubeEnv("randomised"), teacher, 3, 5, alone)
    always, never = labels(1.0), labels(0.0)
    shared = min(len(alone), len(always))
    assert shared > 5
    np.testing.assert_array_equal(alone.states[:shared], always.states[:shared])
    np.testing.assert_array_equal(alone.chunks[:shared], always.chunks[:shared])
    np.testing.assert_array_equal(never.states[0], alone.states[0])
    assert not np.array_equal(never.states[1], alone.states[1])


def test_imitating_labels_brings_the_student_to_the_teacher(tmp_path: Path) -> None:
    teacher, data = toy_teacher(tmp_path), LabelledChunks()
    teacher_episode(DynamicCubeEnv("nominal"), teacher, 0, 5, data)
    agent = new_agent(TASK, {**SMALL, "learning_rate": 3e-3})
    agent.fit_normalizer(np.array(data.states))
    states, chunks = data.tensors()
    losses = [agent.imitation_update(imitation_batch(states, chunks))["nll"] for _ in range(60)]
    assert losses[-1] < losses[0] - 1.0  # [nats per dimension]
    assert torch.equal(imitation_batch(states, chunks).actions, chunks)


def test_labels_that_are_not_there_are_an_error() -> None:
    with pytest.raises(ValueError, match="0 entries, must have at least 1"):
        LabelledChunks().tensors()


def test_a_small_distillation_leaves_what_the_stages_go_on_from(tmp_path: Path) -> None:
    config = DistillConfig(
        teacher_episodes=2,
        imitation_updates=3,
        rounds=1,
        round_episodes=1,
        round_updates=2,
        student_episodes=2,
        robot_minutes=0.2,
        evaluation_episodes=1,
    )
    settings = {
        **SMALL,
        "warmup_min_updates": 0,
        "warmup_max_updates": 2,
        "offline_updates": 2,
        "online_min_steps": 5,
        "holdout_every": 0,
        "update_to_data": 0.5,
    }
    out = tmp_path / "out"
    run = Distillation(
        toy_teacher(tmp_path / "teacher"), out, config, seed=1, settings=settings, log=lambda text: None
    )
    result = run.run()
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result))
    assert set(result["student"]) == {"imitation", "round1"}
    assert result["finetuned"]["online"]["robot_minutes"] >= 0.2
    interval = result["teacher"]["shifted"]
    assert interval["low"] <= interval["mean"] <= interval["high"] and interval["n"] == 1

    loaded = load_policy((out / "student/policies/imitation.safetensors").read_bytes(), TASK)
    assert loaded.info.stage == "imitation" and loaded.info.gradient_step == 5
    session = Session(tmp_path / "run", TASK, seed=0, resume=out / "student")
    assert session.resumed and session.stage == "imitation" and session.agent.gradient_step == 5
    for one, two in zip(session.agent.policy.flow.parameters(), loaded.policy.flow.parameters(), strict=True):
        assert torch.equal(one, two)
    session = Session(tmp_path / "run", TASK, seed=0, resume=out / "finetuned")
    assert session.stage == "online" and session.agent.gradient_step > 5


def test_a_folder_in_use_and_bad_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher"
    toy_teacher(teacher)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    common = ["--teacher", str(teacher), "--out"]
    assert main([*common, str(tmp_path / "used")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "new"), "--set", "rounds=-1"]) == 2
    assert "'rounds' is -1, must be in [0, 6]" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "new"), "--set", "roundz=1"]) == 2
    assert "'roundz'" in capsys.readouterr().err
    assert main(["--teacher", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "teacher.safetensors" in capsys.readouterr().err
