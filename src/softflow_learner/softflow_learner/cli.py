"""`softflow train STAGE`: the stages that learn from bags, without a robot; `rebuild`: experience from bags."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from softflow_learner import processes, stages
from softflow_learner.agent import Scalars, TrainingDivergedError
from softflow_learner.bags import rebuild_journal, replace, require_empty
from softflow_learner.checkpoint import CheckpointError
from softflow_learner.distributed import ProcessLostError
from softflow_learner.journal import Journal
from softflow_learner.parallel import DEVICES, Alone
from softflow_learner.replay import Replay
from softflow_learner.session import Session, parse_settings
from softflow_node.files import lock_directory
from softflow_node.signals import StopFlag
from softflow_tasks import make_task, task_ids

REBUILD = "rebuild"
PRINT_EVERY = 2.0
"""[s] between two lines of progress."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code, 2 after an error in what was asked for, 130 when interrupted."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    if processes.is_worker():
        return processes.serve(options.device)
    try:
        with lock_directory(options.run):
            return _in_run(options)
    except (CheckpointError, TrainingDivergedError, ProcessLostError, ValueError, OSError) as error:
        print(f"softflow train: {error}", file=sys.stderr)
        return 2


def _in_run(options: argparse.Namespace) -> int:
    if options.stage == REBUILD:
        return rebuild(options)
    stop = StopFlag.install()
    with processes.gathered(options.processes, options.device) as world:
        return train(options, world, stop)


def rebuild(options: argparse.Namespace) -> int:
    """The experience of a run from the robots' bags; then read back as a learner does, and counted."""
    from softflow_learner.messages import about, add_payload
    from softflow_recorder.messages import to_payloads

    if not options.bags:
        raise ValueError("bags: must be given")
    task, experience = make_task(options.task), options.run / "experience"
    require_empty(experience)
    new = experience.with_name("experience.rebuilding")
    found = rebuild_journal(new, options.bags, task.layout.hash, to_payloads, about)
    for line in found.refused:
        print(f"refused: {line}", file=sys.stderr)
    replay = Replay(task.layout.size, task.action_dim, 1, 1.0, capacity=max(1, found.steps))
    steps = sum(add_payload(replay, stored.payload, task.layout.hash) for stored in Journal(new).stored())
    episodes = sum(found.episodes.values())
    if (steps, len(replay.episodes())) != (found.steps, episodes):
        raise ValueError(
            f"{new} has {len(replay.episodes())} episodes of {steps} steps, the bags have {episodes} "
            f"of {found.steps}"
        )
    replace(experience, new)
    for robot, count in found.episodes.items():
        print(f"{robot}: {count} episodes")
    print(
        f"{experience}: {episodes} episodes, {steps} steps ({replay.size('offline')} offline, "
        f"{replay.size('online')} online), {found.items} items; {found.others} bags not for training, "
        f"{len(found.refused)} refused"
    )
    return 0


def train(options: argparse.Namespace, world: Alone, stop: StopFlag) -> int:
    """Run one stage in a run directory."""
    if not options.demos:
        raise ValueError("demos: must be given")
    task = make_task(options.task)
    session = Session(options.run, task, options.seed, parse_settings(options.set), world=world)
    for line in session.load_demonstrations(options.demos):
        print(f"refused: {line}", file=sys.stderr)
    shown, held_out, failed = (session.replay.size(name) for name in ("offline", "held_out", "failed"))
    print(f"demonstrations: {shown} steps, {failed} more of failed ones for the critic, {held_out} held out")
    if options.stage != "imitation" and not session.resumed:
        raise ValueError(f"run: {str(options.run)!r} has no checkpoint; train imitation comes first")
    session.stage = options.stage
    printer = _Printer(session)
    report = _run_stage(options.stage, session, printer, stop)
    if stop.is_set():
        print("interrupted: the stage begins anew next time")
        return 130
    path = session.finish_stage()
    session.close()
    print(f"{options.stage}: {report}")
    print(f"weights: {path}")
    return 0


def _run_stage(stage: str, session: Session, progress: stages.Progress, stop: StopFlag) -> str:
    agent, replay = session.agent, session.replay
    if stage == "imitation":
        return f"{stages.run_imitation(agent, replay, progress, stop.is_set)} updates"
    if stage == "warmup":
        return str(stages.run_warmup(agent, replay, progress, stop.is_set))
    return f"{stages.run_offline(agent, replay, progress, stop.is_set)} updates"


class _Printer:
    """Hands progress to the session, and prints a line now and then."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._printed = time.monotonic()

    def __call__(self, step: int, total: int, scalars: Scalars) -> None:
        self._session.record(step, total, scalars)
        now = time.monotonic()
        if now - self._printed < PRINT_EVERY and step < total:
            return
        self._printed = now
        figures = "  ".join(f"{k} {v:.3f}" for k, v in self._session.scalars.items())
        print(
            f"{self._session.stage} {step}/{total}  {self._session.updates_per_second:.0f} updates/s  {figures}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="softflow train", description="Train a policy from bags.")
    parser.add_argument("stage", choices=("imitation", "warmup", "offline", REBUILD))
    parser.add_argument("--run", type=Path, required=True, help="run directory, made if absent")
    parser.add_argument("--demos", type=Path, help="directory of demonstration bags")
    parser.add_argument(
        "--bags", type=Path, nargs="+", default=[], help="directories of the robots' bags, for rebuild"
    )
    parser.add_argument("--task", choices=task_ids(), default="CubeRotation-v0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, in each process")
    parser.add_argument(
        "--processes", type=int, default=1, help="that share each update (torchrun sets its own)"
    )
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="cuda: one GPU a process")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a field of Config or PolicySpec"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
