"""The demo: demonstrations, imitation, critic warm-up, offline RL, online RL, each measured through the nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from softflow_bringup.demo.plan import Plan
from softflow_bringup.demo.progress import Progress
from softflow_bringup.demo.state import DemoState
from softflow_bringup.episodes import BagWatch, GraphFailedError, run_episodes, run_graph
from softflow_experiments.statistics import bootstrap
from softflow_recorder.bag import Summary
from softflow_tasks import make_task

RECENT = 10
"""Episodes of which the running figure is the mean."""


class StageFailedError(RuntimeError):
    """A training process has failed; the text names its log."""


class Demo:
    """One demo in one run directory:

    RUN/demonstrations, RUN/eval/<stage>, RUN/online: bags and node logs
    RUN/learner: checkpoints, weights, TensorBoard
    """

    def __init__(self, run: Path, plan: Plan, seed: int, interrupted: Callable[[], bool]) -> None:
        self.run, self.plan, self.seed = run, plan, seed
        self.task = make_task(plan.task)
        self.learner = run / "learner"
        self.demos = run / "demonstrations"
        self.state = DemoState.open(run / "demo.json", plan, seed)
        self.progress = Progress(plan.expected_seconds())
        self._interrupted = interrupted

    def wait(self, seconds: float) -> None:
        """Sleep; raises KeyboardInterrupt when the user wants to stop."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._interrupted():
                raise KeyboardInterrupt
            time.sleep(0.1)

    def all_stages(self) -> None:
        """Run what is not done yet.

        Raises:
            KeyboardInterrupt, StageFailedError, GraphFailedError.
        """
        self._teacher()
        for stage in ("imitation", "warmup", "offline"):
            self._train(stage)
            self._evaluate(stage)
        self._online()
        self._evaluate("online")

    # -- Parts

    def _teacher(self) -> None:
        if self._done("teacher", "teacher"):
            return
        count = self.plan.demonstrations

        def show(summaries: list[Summary]) -> None:
            self.progress.update(
                len(summaries) / count, f"{len(summaries)}/{count} episodes  {self._recent(summaries)}"
            )

        with self._part("teacher") as part:
            arguments = self._arguments() | {"speed": "max"}
            summaries = run_episodes("record_demos", arguments, self.demos, count, show, self.wait)
            part.text = self._figures(summaries)
        self._finish("teacher", summaries, self._minutes(summaries))

    def _train(self, stage: str) -> None:
        if self._done(stage, stage):
            return
        if self._weights(stage).exists():
            self.progress.skip(stage)
            return
        with self._part(stage) as part:
            part.text = self._train_process(stage)

    def _train_process(self, stage: str) -> str:
        command = [sys.executable, "-m", "softflow_learner.cli", stage, "--run", str(self.learner)]
        command += ["--demos", str(self.demos / "bags"), "--task", self.plan.task, "--seed", str(self.seed)]
        for name, value in self.plan.settings.items():
            command += ["--set", f"{name}={value}"]
        log = self.run / "log" / f"{stage}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            try:
                while process.poll() is None:
                    self.wait(0.5)
                    self.progress.update(*self._learner_status(stage))
            finally:
                process.terminate()
                process.wait()
        if process.returncode != 0:
            raise StageFailedError(f"{stage}: exit code {process.returncode}; its output is in {log}")
        return self._learner_status(stage)[1]

    def _online(self) -> None:
        if self._done("online", "online"):
            return
        run, plan = self.run / "online", self.plan
        watch = BagWatch(run / "bags")
        spent = self.state.walls.get("online", 0.0)
        began = time.monotonic()

        def fractions() -> tuple[float, float]:
            minutes = self._minutes(watch.summaries()) / plan.online_minutes
            return minutes, (spent + time.monotonic() - began) / plan.online_wall

        def keep_on() -> bool:
            minutes, wall = fractions()
            summaries = watch.summaries()
            text = f"{self._minutes(summaries):.1f} robot min  {self._recent(summaries)}  "
            self.progress.update(max(minutes, wall), text + self._learner_status("online")[1])
            return max(minutes, wall) < 1.0

        if max(fractions()) >= 1.0 and self._weights("online").exists():
            self.progress.skip("online")
            return
        arguments = self._arguments() | {
            "speed": plan.speed,
            "lock_step": "true",
            "mode": "train",
            "run": run,
            "learner_run": self.learner,
            "demos": self.demos / "bags",
            "weights": self._weights("offline"),
            "settings": ",".join(f"{name}={value}" for name, value in plan.settings.items()),
            "first_index": 1 + max((s.index for s in watch.summaries()), default=-1),
        }
        with self._part("online") as part:
            run_graph("online_rl", arguments, run / "log", keep_on, self.wait)
            summaries = watch.summaries()
            part.text = f"{self._minutes(summaries):.1f} robot min  {self._recent(summaries)}"
        if not self._weights("online").exists():
            raise GraphFailedError(f"online_rl: the learner left no weights; see {run / 'log'}")

    def _evaluate(self, stage: str) -> None:
        part_name = f"{stage} evaluation"
        if self._done(stage, part_name):
            return
        count = self.plan.eval_episodes

        def show(summaries: list[Summary]) -> None:
            self.progress.update(
                len(summaries) / count, f"{len(summaries)}/{count} episodes  {self._recent(summaries)}"
            )

        with self._part(part_name) as part:
            arguments = self._arguments() | {"speed": "max", "weights": self._weights(stage)}
            summaries = run_episodes(
                "inference", arguments, self.run / "eval" / stage, count, show, self.wait
            )
            part.text = self._figures(summaries)
        online = BagWatch(self.run / "online" / "bags").summaries() if stage == "online" else []
        self._finish(stage, summaries, self._minutes(online))

    # -- Helpers

    def _arguments(self) -> dict[str, object]:
        return {"task": self.plan.task, "seed": self.seed, "eyes": self.plan.eyes}

    def _weights(self, stage: str) -> Path:
        return self.learner / "policies" / f"{stage}.safetensors"

    def _done(self, stage: str, part: str) -> bool:
        if stage in self.state.stages:
            self.progress.skip(part)
            return True
        return False

    def _finish(self, stage: str, summaries: list[Summary], robot_minutes: float) -> None:
        estimate = bootstrap([s.metrics[self.task.metric] for s in summaries])
        success = sum(s.success for s in summaries) / len(summaries)
        self.state.add_stage(stage, self.task.metric, estimate, success, robot_minutes)

    def _minutes(self, summaries: list[Summary]) -> float:
        return sum(s.steps for s in summaries) / self.task.control_hz / 60.0

    def _recent(self, summaries: list[Summary]) -> str:
        last = [s.metrics[self.task.metric] for s in summaries[-RECENT:]]
        if not last:
            return "waiting for the first episode"
        return f"{sum(last) / len(last):.1f} {self.task.metric_label}"

    def _figures(self, summaries: list[Summary]) -> str:
        estimate = bootstrap([s.metrics[self.task.metric] for s in summaries])
        success = sum(s.success for s in summaries) / len(summaries)
        return f"{estimate} {self.task.metric_label}, success {100 * success:.0f} %"

    def _learner_status(self, stage: str) -> tuple[float, str]:
        try:
            status = json.loads((self.learner / "status.json").read_text())
        except (OSError, ValueError):
            return 0.0, "starting"
        if status["stage"] != stage:
            return 0.0, "starting"
        step, total, rate = status["step"], status["total"], status["updates_per_second"]
        text = f"{step} updates  {rate:.0f} updates/s  policy version {status['policy_version']}"
        return (step / total if total else 0.0), text

    def _part(self, name: str) -> _Part:
        return _Part(self, name)


class _Part:
    """Shows a part and counts its time, also when it is interrupted."""

    def __init__(self, demo: Demo, name: str) -> None:
        self._demo, self._name = demo, name
        self.text = ""

    def __enter__(self) -> _Part:
        self._began = time.monotonic()
        self._demo.progress.begin(self._name)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._demo.state.add_wall(self._name, time.monotonic() - self._began)
        if kind is None:
            self._demo.progress.end(self.text)
