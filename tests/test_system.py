"""The real graph as processes: demonstrations, training, online learning, and a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import domain_coordinator
import numpy as np
import pytest

from softflow_bringup.episodes import BagWatch, run_episodes, run_graph
from softflow_learner.journal import read_journal
from softflow_node.authentication import create_key
from softflow_policy.policy import DEPLOYED_TEMPERATURE, chunk_noise
from softflow_policy.weights import decode_weights
from softflow_recorder.bag import read_episode, read_messages
from softflow_recorder.spool import read_spool

pytestmark = [pytest.mark.ros, pytest.mark.slow]

SMALL = ("imitation_updates=60", "warmup_min_updates=20", "warmup_max_updates=20", "offline_updates=10")
ONLINE = "online_min_steps=50,online_critic_only_steps=100,update_to_data=0.5,batch_size=64"
DEMONSTRATIONS = 3
EPISODES = 4


def read(path: Path) -> bytes:
    """Of a file in /proc; empty when the process is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def our_processes(mark: str) -> list[str]:
    """Command lines of processes whose environment holds `mark`."""
    others = [p for p in Path("/proc").glob("[0-9]*") if int(p.name) != os.getpid()]
    found = [p for p in others if mark.encode() in read(p / "environ")]
    return [read(p / "cmdline").replace(b"\0", b" ").decode() for p in found]


def shared_memory() -> set[str]:
    """But for what this process itself has in use, for other tests."""
    own = read(Path("/proc/self/maps")).decode()
    return {p.name for p in Path("/dev/shm").glob("*fastrtps*") if not used(p.name, own)}


def used(name: str, maps: str) -> bool:
    port = name.removeprefix("sem.").removesuffix("_mutex").removesuffix("_el").removesuffix("_sl")
    return f"/dev/shm/{port}\n" in maps


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole chain once; the tests look at what it left."""
    run = tmp_path_factory.mktemp("system")
    before = shared_memory()
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("SOFTFLOW_TEST_MARK", str(run))
        run_episodes("record_demos", {"speed": "max"}, run / "demos", DEMONSTRATIONS, lambda _: None, sleep)
        for stage in ("imitation", "warmup", "offline"):
            train(stage, run)
        create_key(run / "key")
        watch = BagWatch(run / "online" / "bags")

        def keep_on() -> bool:
            return not (len(watch.summaries()) >= EPISODES and switched(run) and rounds(run) > 0)

        arguments = {
            "speed": "10",
            "lock_step": "true",
            "run": run / "online",
            "learner_run": run / "learner",
            "demos": run / "demos" / "bags",
            # Older than what the learner has on its shelf, so that there is something to switch to.
            "weights": run / "learner" / "policies" / "imitation.safetensors",
            "settings": ONLINE,
            "key_file": run / "key",
        }
        run_graph("online_rl", arguments, run / "log", keep_on, sleep)
    (run / "left.json").write_text(
        json.dumps(
            {"processes": our_processes(f"SOFTFLOW_TEST_MARK={run}"), "shm": sorted(shared_memory() - before)}
        )
    )
    return run


def train(stage: str, run: Path) -> None:
    command = [sys.executable, "-m", "softflow_learner.cli", stage, "--run", str(run / "learner")]
    command += ["--demos", str(run / "demos" / "bags")]
    for setting in SMALL:
        command += ["--set", setting]
    subprocess.run(command, check=True, timeout=300)


def rounds(run: Path) -> int:
    """Online rounds that the learner has done."""
    status = json.loads((run / "learner" / "status.json").read_text())
    return int(status["step"]) if status["stage"] == "online" else 0


def switched(run: Path) -> list[int]:
    """Versions that the policy node has put in force, in order."""
    lines = (
        (run / "log" / "policy.log").read_text().splitlines() if (run / "log" / "policy.log").exists() else []
    )
    versions = [int(line.split("policy version ")[1].split()[0]) for line in lines if "is active" in line]
    return versions if len(versions) >= 2 else []


def test_learner_took_gradient_steps(run: Path) -> None:
    assert rounds(run) > 0


def test_the_link_was_authenticated_and_nothing_was_refused(run: Path) -> None:
    for node in ("recorder", "learner", "policy"):
        log = (run / "log" / f"{node}.log").read_text()
        assert "the link is authenticated under key" in log
        assert "forged" not in log


def test_policy_switched_to_a_newer_version(run: Path) -> None:
    versions = switched(run)
    assert versions == sorted(set(versions)) and len(versions) >= 2


def test_bags_hold_the_versions_that_acted(run: Path) -> None:
    watch = BagWatch(run / "online" / "bags")
    episodes = [read_episode(s.path) for s in watch.summaries()]
    assert len(episodes) >= EPISODES
    acted = {int(v) for e in episodes for v in e.policy_versions}
    assert acted and acted <= set(switched(run))
    assert all(e.source == "policy" and e.mode == "train" for e in episodes)


def test_versions_change_only_between_chunks(run: Path) -> None:
    for summary in BagWatch(run / "online" / "bags").summaries():
        for topic, _, message in read_messages(summary.path):
            if topic.endswith("chunk_result") and message.executed_steps:
                assert message.policy_version in switched(run)


def test_learner_stored_every_complete_episode_once(run: Path) -> None:
    stored = list(read_journal(run / "learner" / "experience"))
    waiting = read_spool(run / "online" / "spool")
    assert len(stored) + len(waiting) == len(BagWatch(run / "online" / "bags").summaries())
    assert len(stored) >= 3


def test_final_weights_and_checkpoint_are_left(run: Path) -> None:
    assert (run / "learner" / "policies" / "online.safetensors").is_file()
    assert list((run / "learner" / "checkpoints").glob("checkpoint_*"))


def test_nothing_is_left_running(run: Path) -> None:
    assert json.loads((run / "left.json").read_text()) == {"processes": [], "shm": []}


def test_equal_seeds_give_equal_episodes_in_lock_step(run: Path, tmp_path: Path) -> None:
    weights = run / "learner" / "policies" / "online.safetensors"
    episodes = []
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        for attempt in ("first", "second"):
            arguments = {"speed": "max", "weights": weights, "seed": 7}
            done = run_episodes("inference", arguments, tmp_path / attempt, 1, lambda _: None, sleep)
            episodes.append(read_episode(done[0].path))
    first, second = episodes
    assert first.states.tobytes() == second.states.tobytes()
    assert first.actions.tobytes() == second.actions.tobytes()
    # A deployed policy draws with less noise than one that explores.
    messages = [(topic.rsplit("/", 1)[-1], m) for topic, _, m in read_messages(done[0].path)]
    seen = next(m for topic, m in messages if topic == "observation")
    chunk = next(m for topic, m in messages if topic == "action_chunk")
    policy, info = decode_weights(weights.read_bytes())
    shape = info.best_of, policy.spec.horizon, policy.spec.action_dim
    noise = chunk_noise(7, str(seen.seed), seen.step, *shape, DEPLOYED_TEMPERATURE)
    planned = policy.plan(np.array(seen.state, np.float32), noise).actions
    np.testing.assert_allclose(np.array(chunk.actions).reshape(planned.shape), planned, atol=1e-5)


@pytest.mark.parametrize(("closed", "seconds"), [(0, 2.0), (1, 0.5)], ids=["at its start", "in between"])
def test_a_recorder_without_a_processor_loses_nothing(tmp_path: Path, closed: int, seconds: float) -> None:
    paused = []

    def pause(_: float) -> None:
        recorders = [
            int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if b"recorder_node" in read(p)
        ]
        mark = f"SOFTFLOW_TEST_MARK={tmp_path}".encode()
        mine = [pid for pid in recorders if mark in read(Path(f"/proc/{pid}/environ"))]
        if mine and not paused and len(BagWatch(tmp_path / "bags").summaries()) >= closed:
            paused.extend(mine)
            os.kill(mine[0], signal.SIGSTOP)
            sleep(seconds)
            os.kill(mine[0], signal.SIGCONT)
        sleep(0.02)

    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("SOFTFLOW_TEST_MARK", str(tmp_path))
        arguments = {"speed": "max", "run": tmp_path, "episodes": 3}
        run_graph("record_demos", arguments, tmp_path / "log", lambda: True, pause)
    assert paused
    assert len(BagWatch(tmp_path / "bags").summaries()) == 3
