"""One cell of the comparison: a task, a method and a seed, all stages in one process, without chance from outside.

DIR/checkpoints/   the agent at the end of a stage, and online about once a minute
DIR/episodes/      online episodes, one file each
DIR/result.json    at the end

An interrupted trial goes on from its last checkpoint and ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softflow_experiments.machine import machine, software
from softflow_experiments.methods import METHODS, combined
from softflow_experiments.rollout import acting, add_episode, load_episode, roll_out, save_episode
from softflow_experiments.tasks import TASKS, BenchTask
from softflow_learner import stages
from softflow_learner.agent import Scalars
from softflow_learner.checkpoint import load_latest, save_checkpoint
from softflow_learner.session import new_agent, new_replay
from softflow_node.files import write_atomically
from softflow_policy.policy import DEPLOYED_TEMPERATURE
from softflow_policy.weights import WeightsInfo, encode_weights, sha256
from softflow_sim.demonstrations import Demonstration as Episode
from softflow_tasks import make_task

Results = dict[str, Any]
"""JSON."""
STAGES = ("imitation", "warmup", "offline", "half", "online", "deployed")
"""`half` is online RL up to half of the robot minutes: who learns faster shows there, who learns further at the end.
`deployed` is what was learned then, acting as `inference` does: with less noise than exploring takes."""
EVALUATION_SEED = 900_000_000
"""Start states of evaluations; training's are below."""
MAX_SEED = 80
"""Keeps the start states of training below those of evaluation."""
SAVE_EVERY = 60.0
"""[s] of wall time between two checkpoints online."""


@dataclass(frozen=True)
class Cell:
    """What is tried, and for how long."""

    task: str
    method: str
    seed: int
    robot_minutes: float | None = None
    """[min] online; None = the task's."""
    evaluation_episodes: int = 20
    """After each stage, on the same start states."""
    settings: tuple[tuple[str, Any], ...] = ()
    """On top of the task's; the method's hold nevertheless."""

    @property
    def directory(self) -> Path:
        """Relative to all results."""
        return Path(self.task) / self.method / str(self.seed)

    def all_settings(self) -> dict[str, Any]:
        """Fields of `PolicySpec` and `Config`."""
        task = {**TASKS[self.task].settings, **dict(self.settings)}
        return {"seed": self.seed, **combined(task, METHODS[self.method].settings)}

    def plan(self) -> Results:
        """Everything that the result depends on, as JSON."""
        task = TASKS[self.task]
        return {
            "task": self.task,
            "method": self.method,
            "seed": self.seed,
            "settings": self.all_settings(),
            "demonstrations": task.demonstrations,
            "teacher_noise": task.teacher_noise,
            "planned_minutes": task.robot_minutes if self.robot_minutes is None else self.robot_minutes,
            "evaluation_episodes": self.evaluation_episodes,
        }


def new_state() -> Results:
    """Of a trial that has done nothing yet."""
    counters: Results = {"episodes": 0, "rounds": 0}
    return counters | {"done": [], "stages": {}, "curve": [], "metrics": [], "seconds": {}, "updates": {}}


class InterruptedTrialError(RuntimeError):
    """Somebody asked the trial to stop; it goes on from its last checkpoint next time."""


class OtherPlanError(ValueError):
    """The directory holds a trial of another plan. The text names the directory, the field and both values."""


def check_plan(directory: Path, found: Results, wanted: Results) -> None:
    """Raises OtherPlanError if what was found there belongs to another plan; what it does not tell is not compared."""
    wanted = json.loads(json.dumps(wanted))
    for name, value in wanted.items():
        if name in found and found[name] != value:
            raise OtherPlanError(
                f"{directory}: {name} is {found[name]!r} there, asked for is {value!r}; choose another --out"
            )


class Trial:
    """Runs a cell in its directory."""

    def __init__(
        self,
        cell: Cell,
        directory: Path,
        *,
        stop: stages.Stop = stages.never,
        log: Callable[[str], None] = print,
        save_every: float = SAVE_EVERY,
    ) -> None:
        """Raises ParameterError for settings that do not fit, CheckpointError if no checkpoint is usable,
        OtherPlanError if the directory's checkpoint is of other settings."""
        self.cell, self.directory, self.stop, self.log = cell, directory, stop, log
        self.save_every = save_every
        self.task: BenchTask = TASKS[cell.task]
        self.method = METHODS[cell.method]
        self.env = self.task.make_env()
        restored = load_latest(directory / "checkpoints")
        if restored:
            check_plan(directory, restored.extra.get("plan", {}), cell.plan())
        self.agent = restored.agent if restored else new_agent(make_task(self.task.id), cell.all_settings())
        self.replay = new_replay(self.agent)
        self.state: Results = new_state() | (restored.extra["trial"] if restored else {})
        self.fresh = restored is None
        self._scalars: Scalars = {}
        self._clock = time.monotonic()

    def run(self) -> Results:
        """All stages that are left; returns the result and writes it.

        Raises:
            InterruptedTrialError: `stop` said so.
        """
        self._demonstrations()
        steps: dict[str, Callable[[], Any]] = {
            "imitation": lambda: stages.run_imitation(self.agent, self.replay, self._progress, self.stop),
            "warmup": lambda: stages.run_warmup(self.agent, self.replay, self._progress, self.stop),
            "offline": lambda: stages.run_offline(self.agent, self.replay, self._progress, self.stop),
            "half": lambda: self._online(0.5),
            "online": lambda: self._online(1.0),
            "deployed": lambda: f"temperature {DEPLOYED_TEMPERATURE}",
        }
        for stage in STAGES:
            if stage not in self.state["done"]:
                self._clock = time.monotonic()
                report = steps[stage]()
                self._check_stop()
                self._count(stage)
                self._finish(stage, report)
        result = self._result()
        write_atomically(self.directory / "result.json", json.dumps(result, indent=1).encode())
        return result

    # -- Parts

    def _demonstrations(self) -> None:
        episodes, failed, rates = self.task.demonstrate(self.cell.seed)
        for index, episode in enumerate(episodes):
            add_episode(self.replay, episode, source="teacher", episode_id=f"demo{index}")
        for index, episode in enumerate(failed):
            add_episode(self.replay, episode, source="teacher", episode_id=f"failed{index}", failed=True)
        self.state["teacher"] = {"attempts": self.task.demonstrations, "imitated": len(episodes), **rates}
        self.log(f"teacher: {_numbers(rates)}, {len(episodes)} episodes to imitate")
        if self.fresh:
            self.agent.fit_normalizer(self.replay.states())
        for index in range(self.state["episodes"]):
            add_episode(
                self.replay,
                load_episode(self._episode_path(index)),
                source="policy",
                episode_id=f"online{index}",
            )
        self._count("demonstrations")

    def _online(self, share: float) -> str:
        """Up to this share of the robot minutes: an episode, the updates that are due, an episode.

        The policy is renewed between two episodes.
        """
        learning = stages.OnlineLearning(self.agent, self.replay)
        learning.rounds = self.state["rounds"]
        minutes = self.cell.plan()["planned_minutes"]
        steps = share * minutes * 60.0 * self.env.task.control_hz if self.method.online else 0.0
        saved = time.monotonic()
        while self.replay.online_steps < steps:
            self._check_stop()
            self._record(self._episode())
            self._count("episodes")
            while learning.due() > 0:
                self._scalars |= learning.update()
                if self.stop():  # This round of updates begins anew, from the last checkpoint.
                    raise InterruptedTrialError
            self._count("half" if share < 1.0 else "online")
            self.state["rounds"] = learning.rounds
            self._extend_curve()
            if time.monotonic() - saved > self.save_every:
                self._save()
                saved = time.monotonic()
        return f"{learning.rounds} rounds"

    def _episode(self) -> Episode:
        index = self.state["episodes"]
        seed = 10_000_000 * (1 + self.cell.seed) + index
        return roll_out(self.env, acting(self.agent), seed=seed, noise_seed=self.cell.seed)

    def _record(self, episode: Episode) -> None:
        index = self.state["episodes"]
        save_episode(self._episode_path(index), episode)
        add_episode(self.replay, episode, source="policy", episode_id=f"online{index}")
        self.state["episodes"] = index + 1
        self.state["metrics"].append(
            [self.replay.online_steps, *(episode.info[m] for m in self.task.metrics)]
        )

    def _extend_curve(self, every: float = 2.5) -> None:
        """A point each `every` robot minutes: the mean over the episodes since the last one."""
        per_minute = 60.0 * self.env.task.control_hz
        minutes = self.replay.online_steps / per_minute
        if minutes < every * (len(self.state["curve"]) + 1):
            return
        since = self.state["curve"][-1][0] * per_minute if self.state["curve"] else 0.0
        recent = [m[1:] for m in self.state["metrics"] if m[0] > since]
        means = dict(zip(self.task.metrics, np.mean(recent, axis=0).tolist(), strict=True))
        self.state["curve"].append([minutes, means])
        self.log(f"online {minutes:.1f} min: {_numbers(means)}; {_numbers(self._scalars)}")

    def _finish(self, stage: str, report: Any) -> None:
        """Evaluate, note, save."""
        count = self.cell.evaluation_episodes
        temperature = DEPLOYED_TEMPERATURE if stage == "deployed" else 1.0
        policy = acting(self.agent, 1 if stage == "imitation" else None, temperature)
        found = []
        for k in range(count):
            self._check_stop()
            episode = roll_out(self.env, policy, seed=EVALUATION_SEED + k, noise_seed=self.cell.seed)
            found.append({name: episode.info[name] for name in self.task.metrics})
        self.state["stages"][stage] = found
        self.state["updates"][stage] = self.agent.gradient_step - sum(self.state["updates"].values())
        self.state["done"].append(stage)
        self._count("evaluation")
        means = {name: float(np.mean([f[name] for f in found])) for name in self.task.metrics}
        self.log(f"{stage} ({self.state['seconds'][stage]:.0f} s, {report}): {_numbers(means)}")
        self._save()

    def _count(self, part: str) -> None:
        """Wall time since the last call goes to this part; what an interruption loses is not counted."""
        now = time.monotonic()
        self.state["seconds"][part] = self.state["seconds"].get(part, 0.0) + now - self._clock
        self._clock = now

    def _save(self) -> None:
        extra = {"trial": self.state, "plan": self.cell.plan()}
        save_checkpoint(self.directory / "checkpoints", self.agent, extra, keep=1)

    def _progress(self, done: int, total: int, scalars: Scalars) -> None:
        self._scalars |= scalars

    def _check_stop(self) -> None:
        if self.stop():
            raise InterruptedTrialError

    def _episode_path(self, index: int) -> Path:
        return self.directory / "episodes" / f"{index:06d}.npz"

    def _result(self) -> Results:
        weights = encode_weights(self.agent.acting_policy(), WeightsInfo())
        seconds, updates = self.state["seconds"], self.state["updates"]
        return self.cell.plan() | {
            "robot_minutes": self.replay.online_steps / self.env.task.control_hz / 60.0,
            "teacher": self.state["teacher"],
            "stages": self.state["stages"],
            "curve": self.state["curve"],
            "updates": updates,
            "skipped": self.agent.skipped,
            "seconds": seconds,
            "updates_per_second": {
                s: updates[s] / seconds[s] for s in STAGES if updates[s] and seconds.get(s)
            },
            "weights_sha256": sha256(weights),
            "software": software(),
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d"),
        }


def _numbers(values: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in values.items())
