"""One cell of the benchmark: an environment, a task and a seed, offline, online or both, in one process.

DIR/checkpoints/   the agent, every 5000 updates
DIR/episodes/      online episodes, one file each
DIR/result.json    at the end

An interrupted cell goes on from its last checkpoint and ends with the same bits as one that was not. One that learns
offline, then online, begins where the same cell without online steps ended, if that has been run; same bits, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softflow_experiments.machine import machine, software
from softflow_experiments.ogbench.adapter import evaluate, fill, relabel
from softflow_experiments.ogbench.data import SHARD_STEPS, ensure, load
from softflow_experiments.ogbench.environment import task_environment, version
from softflow_experiments.ogbench.settings import SETTINGS, new_agent
from softflow_experiments.rollout import acting, add_episode, load_episode, roll_out, save_episode
from softflow_experiments.trial import InterruptedTrialError, OtherPlanError, Results, check_plan
from softflow_learner import stages
from softflow_learner.agent import Agent, Scalars
from softflow_learner.checkpoint import CheckpointError, Restored, load_latest, save_checkpoint
from softflow_learner.session import new_replay
from softflow_node.files import write_atomically
from softflow_policy.policy import DEPLOYED_TEMPERATURE

SAVE_EVERY, CURVE_EVERY = 5_000, 20_000
"""[updates] between checkpoints; [updates or online steps] between points of the curve."""
MAX_SEED = 80
"""Keeps the start states of training below those of evaluation."""


@dataclass(frozen=True)
class Cell:
    """What is run."""

    env: str
    task: int
    seed: int
    updates: int = 100_000
    """Offline."""
    online_steps: int = 0
    transitions: int = 400_000
    """Of play data, rounded up to whole shards."""
    data_seed: int = 0
    evaluation_episodes: int = 50
    curve_episodes: int = 15
    settings: tuple[tuple[str, Any], ...] = ()
    """On top of the environment's."""

    @property
    def kind(self) -> str:
        """Where it learns."""
        return (
            "-".join(k for k, n in (("offline", self.updates), ("online", self.online_steps)) if n) or "none"
        )

    @property
    def directory(self) -> Path:
        """Relative to all results."""
        return Path(f"{self.env}-task{self.task}") / self.kind / str(self.seed)

    @property
    def offline_part(self) -> Cell:
        """Without online steps; it learns the same until they begin."""
        return dataclasses.replace(self, online_steps=0)

    @property
    def play_steps(self) -> int:
        """Of whole shards."""
        return -(-self.transitions // SHARD_STEPS) * SHARD_STEPS

    def plan(self) -> Results:
        """Everything that the result depends on, as JSON."""
        data = f"regenerated with the oracles of ogbench {version()}, {self.play_steps} transitions"
        return {
            "env": self.env,
            "task": self.task,
            "seed": self.seed,
            "updates": self.updates,
            "online_steps": self.online_steps,
            "data": data,
            "data_seed": self.data_seed,
            "evaluation_episodes": self.evaluation_episodes,
            "curve_episodes": self.curve_episodes,
            "settings": {"seed": self.seed, **SETTINGS[self.env], **dict(self.settings)},
        }


class CellRun:
    """Runs a cell in its directory."""

    def __init__(
        self,
        cell: Cell,
        directory: Path,
        data: Path,
        *,
        offline: Path | None = None,
        stop: stages.Stop = stages.never,
        log: Callable[[str], None] = print,
        save_every: int = SAVE_EVERY,
        curve_every: int = CURVE_EVERY,
    ) -> None:
        """`data` is the folder of the shards, `offline` that of the cell's `offline_part`.

        Raises ParameterError for settings that do not fit, ValueError for an unknown environment or task,
        CheckpointError if no checkpoint is usable, OtherPlanError if the directory's is of other settings.
        """
        self.cell, self.directory, self.data, self.stop, self.log = cell, directory, data, stop, log
        self.save_every, self.curve_every = save_every, curve_every
        self.env = task_environment(cell.env, cell.task)
        restored = load_latest(directory / "checkpoints")
        if restored:
            check_plan(directory, restored.extra["plan"], cell.plan())
        elif offline is not None:
            restored = self._offline_end(offline)
        self.agent = restored.agent if restored else self._new_agent()
        # Play is never forgotten; the last episode may go beyond the steps, but not by a shard.
        self.replay = new_replay(self.agent, least=cell.play_steps + cell.online_steps + SHARD_STEPS)
        counters: Results = {"offline": 0, "episodes": 0, "rounds": 0, "seconds": {}, "curve": []}
        self.state: Results = restored.extra["cell"] if restored else counters
        self.fresh = restored is None
        self._scalars: Scalars = {}
        self._clock = time.monotonic()

    def _offline_end(self, offline: Path) -> Restored | None:
        """The last checkpoint of the finished cell in that folder, if it is this one's offline part; its time apart."""
        if not (offline / "result.json").exists():
            return None
        try:
            found = load_latest(offline / "checkpoints")
            if found:
                check_plan(offline, found.extra["plan"], self.cell.offline_part.plan())
                found.extra["cell"]["seconds"] = {}
                self.log(f"goes on from {found.path}")
            return found
        except (CheckpointError, OtherPlanError) as error:
            self.log(f"learns offline anew: {error}")
            return None

    def _new_agent(self) -> Agent:
        state, _ = self.env.reset(seed=0)
        action_dim = int(np.prod(self.env.action_space.shape or (0,)))
        return new_agent(self.cell.plan()["settings"], len(state), action_dim)

    def run(self) -> Results:
        """What is left; returns the result and writes it.

        Raises:
            InterruptedTrialError: `stop` said so.
            OtherPlanError: the data are not those of the checkpoint.
        """
        self._load_play()
        self._load_online()
        self._offline()
        self._online()
        episodes = self.cell.evaluation_episodes
        result = self._result(self._evaluate(episodes), self._evaluate(episodes, DEPLOYED_TEMPERATURE))
        write_atomically(self.directory / "result.json", json.dumps(result, indent=1).encode())
        return result

    # -- Data

    def _load_play(self) -> None:
        cell, digest, solved, found = self.cell, hashlib.sha256(), 0, 0
        paths = ensure(self.data, cell.env, cell.data_seed, cell.transitions, self.log, self.stop)
        self._count("generation")
        for path in paths:
            self._check_stop()
            digest.update(path.read_bytes())
            play = load(path)
            labels = relabel(play, cell.env, self.env)
            fill(self.replay, play, labels, found)
            found += len(play.actions)
            solved += int(labels.success.sum())
        play_data = {"data_sha256": digest.hexdigest(), "solved_states": solved, "trajectories": found}
        check_plan(self.directory, self.state.get("play", {}), play_data)
        self.state["play"] = play_data
        if self.fresh:
            self.agent.fit_normalizer(self.replay.states())
        self.log(f"{self.replay.size()} transitions of {found} trajectories, {solved} solved states")

    def _load_online(self) -> None:
        for index in range(self.state["episodes"]):
            self._add(index, load_episode(self._episode_path(index)))

    # -- Learning

    def _offline(self) -> None:
        """In blocks that end where a checkpoint or a point of the curve is due."""
        while True:
            done = self.state["offline"]
            points = sum(point["online_steps"] == 0 for point in self.state["curve"])
            if done // self.curve_every > points:
                self._extend_curve()
            left = min(self.cell.updates - done, *(n - done % n for n in (self.save_every, self.curve_every)))
            if left <= 0:
                return
            self.state["offline"] += self._block(left)
            self._count("offline")
            self._save()
            self._check_stop()

    def _block(self, updates: int) -> int:
        """So many rounds of critic and actor; returns how many `stop` allowed."""

        def progress(count: int, total: int, scalars: Scalars) -> None:
            self._scalars = scalars

        return stages.run_offline(self.agent, self.replay, progress, self.stop, updates=updates)

    def _online(self) -> None:
        """Alternates the updates that are due and an episode."""
        learning = stages.OnlineLearning(self.agent, self.replay)
        learning.rounds = self.state["rounds"]
        while True:
            self._due(learning)
            self._count("online")
            points = sum(point["online_steps"] > 0 for point in self.state["curve"])
            if self.replay.online_steps // self.curve_every > points:
                self._extend_curve()
            if self.replay.online_steps >= self.cell.online_steps:
                return
            self._episode()
            self._count("episodes")

    def _due(self, learning: stages.OnlineLearning) -> None:
        while learning.due() > 0 and not self.stop():
            self._scalars |= learning.update()
            self.state["rounds"] = learning.rounds
            if learning.rounds % self.save_every == 0:
                self._save()
        if self.stop():
            self._save()
            raise InterruptedTrialError

    def _episode(self) -> None:
        index = self.state["episodes"]
        seed = 10_000_000 * (1 + self.cell.seed) + index
        episode = roll_out(self.env, acting(self.agent), seed=seed, noise_seed=self.cell.seed)
        save_episode(self._episode_path(index), episode)
        self._add(index, episode)
        self.state["episodes"] = index + 1

    def _add(self, index: int, episode: Any) -> None:
        add_episode(self.replay, episode, source="policy", episode_id=f"online{index}")

    # -- Notes

    def _evaluate(self, episodes: int, temperature: float = 1.0) -> list[float]:
        policy, found = acting(self.agent, temperature=temperature), []
        for success in evaluate(self.env, policy, episodes, self.cell.seed):
            found.append(success)
            self._check_stop()
        self._count("evaluation")
        return found

    def _extend_curve(self) -> None:
        found = self._evaluate(self.cell.curve_episodes)
        where = {
            "updates": self.state["offline"] + self.state["rounds"],
            "online_steps": self.replay.online_steps,
        }
        self.state["curve"].append(where | {"success": float(np.mean(found))})
        scalars = " ".join(f"{name} {value:.3g}" for name, value in self._scalars.items())
        self.log(
            f"{where['updates']} updates, {where['online_steps']} steps: {np.mean(found):.2f}; {scalars}"
        )

    def _count(self, part: str) -> None:
        """Wall time since the last call goes to this part; what an interruption loses is not counted."""
        now = time.monotonic()
        self.state["seconds"][part] = self.state["seconds"].get(part, 0.0) + now - self._clock
        self._clock = now

    def _save(self) -> None:
        extra = {"cell": self.state, "plan": self.cell.plan()}
        save_checkpoint(self.directory / "checkpoints", self.agent, extra, keep=2)

    def _check_stop(self) -> None:
        if self.stop():
            raise InterruptedTrialError

    def _episode_path(self, index: int) -> Path:
        return self.directory / "episodes" / f"{index:06d}.npz"

    def _result(self, success: list[float], deployed: list[float]) -> Results:
        seconds = self.state["seconds"]
        return self.cell.plan() | {
            "success": success,
            "success_rate": float(np.mean(success)),
            "deployed": deployed,
            "deployed_temperature": DEPLOYED_TEMPERATURE,
            "curve": self.state["curve"],
            "play": self.state["play"],
            "done": {"offline": self.state["offline"], "online": self.state["rounds"]},
            "skipped": self.agent.skipped,
            "seconds": seconds,
            "software": software() | {"ogbench": version()},
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d"),
        }
