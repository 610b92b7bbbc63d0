"""A policy that sees, in the whole loop: what it acted on is what the bag has and what the learner learns from."""

from __future__ import annotations

import json
import time
from pathlib import Path

import domain_coordinator
import numpy as np
import pytest

from softflow_bringup.bench.system import ONLINE, TINY, prepare_learner
from softflow_bringup.episodes import BagWatch, run_graph
from softflow_learner.journal import read_journal
from softflow_node.pictures import decode, thumbnail
from softflow_policy.policy import chunk_noise
from softflow_policy.weights import decode_weights
from softflow_recorder.bag import read_episode, read_messages

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TASK = "ToolCut-v0"
SEES = {"cameras": "front", "image_size": 32, "image_width": 16, "image_features": 8}
TIMEOUT = 120.0


def test_a_policy_that_sees_acts_and_learns_online(tmp_path: Path) -> None:
    learner, until = tmp_path / "learner", time.monotonic() + TIMEOUT
    weights = prepare_learner(learner, task_id=TASK, sizes={**TINY, **SEES}, spread=0.1)

    def goes_on() -> bool:
        status = learner / "status.json"
        learned = status.is_file() and json.loads(status.read_text())["gradient_step"] > 0
        return not learned and time.monotonic() < until

    arguments = {
        "task": TASK,
        "speed": "max",
        "pictures": "front",
        "run": tmp_path / "robot",
        "learner_run": learner,
        "weights": weights,
        "settings": f"{ONLINE},encoder_rate=0.1",
    }
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        run_graph("online_rl", arguments, tmp_path / "log", goes_on, time.sleep)
    status = json.loads((learner / "status.json").read_text())
    assert status["gradient_step"] > 0 and status["online_steps"] > 0
    assert len(list(read_journal(learner / "experience"))) > 0

    policy, info = decode_weights(weights.read_bytes())
    first = BagWatch(tmp_path / "robot" / "bags").summaries()[0]
    episode, spec = read_episode(first.path), policy.spec
    chunks = [m for topic, _, m in read_messages(first.path) if topic.endswith("/action_chunk")]
    assert len({m.obs_step for m in chunks}) > 5
    for m in chunks:
        if m.policy_version != info.version:
            continue
        noise = chunk_noise(0, str(episode.seed), m.obs_step, info.best_of, spec.horizon, spec.action_dim)
        seen = {"front": thumbnail(decode(episode.images["front"][m.obs_step]), spec.image_size)}
        planned = policy.plan(episode.states[m.obs_step], noise, seen)
        assert np.allclose(np.ravel(planned.actions), m.actions, atol=1e-6)
        other = policy.plan(episode.states[m.obs_step], noise, {"front": seen["front"][:, :, ::-1].copy()})
        assert not np.allclose(np.ravel(other.actions), m.actions, atol=1e-6)  # red and blue matter
