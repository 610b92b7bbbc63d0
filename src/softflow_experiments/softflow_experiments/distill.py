"""`./softflow train distill`: a simulation teacher into the flow, then fine-tuning on another hand than in training.

OUT/student/      a run directory of stage imitation: the distilled student, for `./softflow train` to go on from
OUT/finetuned/    the same after warm-up, offline and online RL on the shifted hand
OUT/result.json   rotations/min of all of them, 95 % intervals of the bootstrap over episodes

The shifted simulation stands for the real hand: nobody has labels or dynamics there, so fine-tuning sees episodes and
rewards only, the student's own first, and every one of them counts as robot time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softflow_experiments.dagger import (
    LabelledChunks,
    imitation_batch,
    student_episode,
    teacher_episode,
)
from softflow_experiments.measuring import Run, measured, play
from softflow_experiments.privileged import TASK, Teacher, load_teacher
from softflow_experiments.rollout import acting, roll_out
from softflow_experiments.shifted_hand import ShiftedHand, collect, learn_online
from softflow_experiments.statistics import Estimate
from softflow_learner import stages
from softflow_learner.agent import Agent, TrainingDivergedError
from softflow_learner.checkpoint import CheckpointError
from softflow_learner.session import Session, parse_settings
from softflow_node.files import write_atomically
from softflow_node.parameters import ParameterError, Validated, bounded, from_mapping
from softflow_node.signals import StopFlag
from softflow_policy.weights import sha256
from softflow_sim.dynamics import SHIFTED, TRAINING, Dynamics
from softflow_sim.dynamics_env import DynamicCubeEnv

Results = dict[str, Any]
"""JSON."""
EVALUATION_SEED = 900_000_000
DAGGER_SEED, MAX_ROUNDS = 100_000_000, 6
ROBOT_SEED = 800_000_000
"""First start states of evaluations, of each DAgger round (times its number) and on the shifted hand."""


@dataclass(frozen=True)
class DistillConfig(Validated):
    """How a teacher is distilled and its student fine-tuned. The learner's own settings are in `Config`."""

    teacher_episodes: int = bounded(60, low=1, high=10**5)
    imitation_updates: int = bounded(3000, low=0, high=10**7, doc="on the teacher's episodes")
    rounds: int = bounded(3, low=0, high=MAX_ROUNDS, doc="of DAgger")
    round_episodes: int = bounded(20, low=1, high=10**5, doc="of the student, each round")
    round_updates: int = bounded(1500, low=0, high=10**7, doc="on all labels so far, after each round")
    # Round i mixes in the teacher's chunks with probability mixture^i, i = 1, 2, ...
    mixture: float = bounded(0.5, low=0.0, high=1.0)
    label_every: int = bounded(2, low=1, high=1000, unit="steps")
    student_episodes: int = bounded(
        15, low=2, high=10**5, doc="on the shifted hand, for the critic's warm-up"
    )
    robot_minutes: float = bounded(20.0, low=0.0, high=10**5, unit="min", doc="on the shifted hand, in all")
    evaluation_episodes: int = bounded(20, low=1, high=10**5)


SETTINGS = {"update_to_data": 2.5, "beta_final": 0.25}
"""Of the learner: the pace of the cube's in the comparison of methods (`tasks.py`), the rest as by default."""


class InterruptedDistillationError(RuntimeError):
    """Somebody asked it to stop."""


class Distillation:
    """Runs all parts in a directory."""

    def __init__(
        self,
        teacher: Teacher,
        out: Path,
        config: DistillConfig,
        *,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        log: Callable[[str], None] = print,
        stop: stages.Stop = stages.never,
    ) -> None:
        """`settings` are fields of `PolicySpec` and `Config`. Raises ParameterError, ValueError if OUT is in use."""
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"out: {str(out)!r} is not empty, must be: a distillation begins anew")
        self.teacher, self.out, self.config, self.seed = teacher, out, config, seed
        self.settings = {**SETTINGS, **(settings or {})}
        self.log, self.stop = log, stop
        self.data = LabelledChunks()
        self.training = DynamicCubeEnv(TRAINING)
        self.session = Session(out / "student", TASK, seed, self.settings)
        self.result: Results = {
            "seed": seed,
            "config": dataclasses.asdict(config),
            "settings": self.settings,
            "teacher_steps": teacher.steps,
            "shifted_parameters": TRAINING.outside(SHIFTED),
        }

    def run(self) -> Results:
        """All parts; returns what is in OUT/result.json too.

        Raises:
            InterruptedDistillationError: `stop` said so.
            TrainingDivergedError: too many updates in a row were not finite.
        """
        start = time.monotonic()
        told_truth, told_nominal = (partial(play, teacher=self.teacher, told=t) for t in (None, Dynamics()))
        self.result["teacher"] = {
            "randomised": self._measured("teacher", told_truth, "randomised"),
            "shifted": self._measured("teacher, told the dynamics", told_truth, "shifted"),
            "shifted_unaware": self._measured("teacher, told the nominal dynamics", told_nominal, "shifted"),
        }
        self.result["student"] = self._distill()
        self._write(start)
        self.result["finetuned"] = self._fine_tune()
        self._write(start)
        return self.result

    # -- Distillation

    def _distill(self) -> Results:
        config, agent = self.config, self.session.agent
        self.session.stage = "imitation"
        horizon = agent.spec.horizon
        for index in range(config.teacher_episodes):
            teacher_episode(self.training, self.teacher, self._seed(index), horizon, self.data)
            self._check_stop()
        agent.fit_normalizer(np.array(self.data.states))
        self._imitate(config.imitation_updates)
        found = {"imitation": self._student("imitation", agent)}
        for number in range(1, config.rounds + 1):
            self._label(number)
            self._imitate(config.round_updates)
            found[f"round{number}"] = self._student(f"DAgger round {number}", agent)
        self.session.finish_stage()
        self.session.close()
        return found

    def _label(self, number: int) -> None:
        """A round of the student's episodes."""
        config = self.config
        student, steps = acting(self.session.agent, 1), 0
        for index in range(config.round_episodes):
            steps += student_episode(
                self.training,
                self.teacher,
                student,
                seed=DAGGER_SEED * number + self._seed(index),
                beta=config.mixture**number,
                label_every=config.label_every,
                data=self.data,
            )
            self._check_stop()
        self.log(f"round {number}: {steps} steps of the student, {len(self.data)} labels in all")

    def _imitate(self, updates: int) -> None:
        """Likelihood of all labels so far."""
        states, chunks = self.data.tensors()
        agent = self.session.agent
        for update in range(updates):
            self._check_stop()
            chosen = torch.from_numpy(agent.numpy_rng.integers(len(states), size=agent.config.batch_size))
            scalars = agent.imitation_update(imitation_batch(states[chosen], chunks[chosen]))
            self.session.record(update + 1, updates, scalars)

    # -- Fine-tuning on the shifted hand

    def _fine_tune(self) -> Results:
        """Warm-up, offline, online; evaluated after offline and online RL."""
        session = Session(self.out / "finetuned", TASK, self.seed, self.settings, resume=self.out / "student")
        agent, replay, config = session.agent, session.replay, self.config
        hand = ShiftedHand(ROBOT_SEED + self._seed(0), noise_seed=self.seed)
        collect(hand, acting(agent, 1), replay, config.student_episodes, self._check_stop)
        session.stage = "warmup"
        found: Results = {
            "warmup": dataclasses.asdict(stages.run_warmup(agent, replay, session.record, self.stop))
        }
        self._check_stop()
        session.finish_stage()
        session.stage = "offline"
        stages.run_offline(agent, replay, session.record, self.stop)
        self._check_stop()
        session.finish_stage()
        found["offline"] = self._measured("offline RL", self._chunks(agent), "shifted")
        found["offline"]["robot_minutes"] = hand.minutes
        session.stage = "online"
        points = learn_online(hand, session, config.robot_minutes, self.log, self._check_stop)
        path = session.finish_stage()
        session.close()
        found["online"] = self._measured("online RL", self._chunks(agent), "shifted")
        found["online"] |= {"robot_minutes": hand.minutes, "episodes": points}
        found["randomised"] = self._measured("online RL", self._chunks(agent), "randomised")
        found["weights_sha256"] = sha256(path.read_bytes())
        return found

    # -- Shared

    def _student(self, label: str, agent: Agent) -> Results:
        run = self._chunks(agent, 1)
        return {name: self._measured(label, run, name) for name in ("randomised", "shifted")}

    def _chunks(self, agent: Agent, best_of: int | None = None) -> Run:
        policy = acting(agent, best_of)
        return lambda env, seed: roll_out(env, policy, seed=seed, noise_seed=self.seed).info

    def _measured(self, label: str, run: Run, name: str) -> Results:
        """On the hands of that name, from the same start states for everybody."""
        found = measured(run, name, EVALUATION_SEED, self.config.evaluation_episodes, self._check_stop)
        estimate = Estimate(*(found[key] for key in ("mean", "low", "high", "n")))
        self.log(f"{label}, {name}: {estimate} {TASK.metric_label}, drops {found['drops']:.2f}")
        return found

    def _seed(self, index: int) -> int:
        return self.seed * 1000 + index

    def _check_stop(self) -> None:
        if self.stop():
            raise InterruptedDistillationError

    def _write(self, start: float) -> None:
        self.result["labels"] = len(self.data)
        self.result["seconds"] = time.monotonic() - start
        write_atomically(self.out / "result.json", json.dumps(self.result, indent=1).encode())


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 2 after an error in what was asked for, 130 when interrupted."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    known = {field.name for field in dataclasses.fields(DistillConfig)}
    try:
        settings = parse_settings(options.set)
        config = from_mapping(DistillConfig, {n: v for n, v in settings.items() if n in known}, "settings")
        rest = {n: v for n, v in settings.items() if n not in known}
        stop = StopFlag.install()
        Distillation(
            load_teacher(options.teacher),
            options.out,
            config,
            seed=options.seed,
            settings=rest,
            log=lambda text: print(text, flush=True),
            stop=stop.is_set,
        ).run()
    except InterruptedDistillationError:
        print("interrupted: the distillation begins anew next time")
        return 130
    except (ParameterError, CheckpointError, TrainingDivergedError, ValueError, OSError) as error:
        print(f"softflow train distill: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="softflow train distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--teacher", type=Path, required=True, help="folder of `softflow train teacher`")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of DistillConfig, Config or PolicySpec",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
