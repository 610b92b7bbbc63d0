"""`softflow demo`: the whole method on a simulated hand, in front of the user."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from softflow_bringup.demo.plan import QUICK, STAGES, Plan
from softflow_bringup.demo.run import Demo, StageFailedError
from softflow_bringup.demo.state import DemoState
from softflow_bringup.domain import private_domain
from softflow_bringup.episodes import BagWatch, GraphFailedError
from softflow_bringup.values import GraphError
from softflow_learner.checkpoint import CheckpointError
from softflow_node.signals import StopFlag
from softflow_recorder.bag import BagError, Summary


def main(argv: Sequence[str]) -> int:
    """Entry point; 0 = done, 1 = something has died, 2 = wrong arguments, 130 = interrupted and resumable."""
    parser = argparse.ArgumentParser(prog="softflow demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of start states, teacher, networks and noise")
    parser.add_argument("--run", type=Path, default=None, help="directory; an unfinished run there goes on")
    parser.add_argument("--quick", action="store_true", help="two minutes that show that it runs; no meaning")
    parser.add_argument(
        "--eyes",
        choices=("none", "camera"),
        default="none",
        help="camera: policy and reward see the cube's tags in rendered pictures, nothing of the simulation's state",
    )
    options = parser.parse_args(argv)
    plan = QUICK if options.quick else Plan()
    if options.eyes == "camera":
        # Drawing and looking take as long again as the rest.
        plan = replace(plan, eyes="camera", online_wall=2 * plan.online_wall)
    stop = StopFlag.install()
    run = options.run or _directory(plan, options.seed, _kind(options))
    try:
        demo = Demo(run, plan, options.seed, stop.is_set)
    except ValueError as error:
        print(f"softflow demo: {error}", file=sys.stderr)
        return 2
    print(f"softflow demo: {plan.task}, seed {options.seed}, folder {run}", flush=True)
    try:
        with private_domain():
            demo.all_stages()
        _conclude(demo)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one stopped", flush=True)
        return 130
    except (StageFailedError, GraphFailedError, GraphError, BagError, CheckpointError) as error:
        print(f"\nsoftflow demo: {error}", file=sys.stderr)
        return 1
    return 0


def _kind(options: argparse.Namespace) -> str:
    """What the run's directory begins with."""
    return ("quick" if options.quick else "demo") + ("-camera" if options.eyes == "camera" else "")


def _directory(plan: Plan, seed: int, kind: str) -> Path:
    """The unfinished run of this seed, else a new directory."""
    for count in range(1, 10_000):
        run = Path("runs") / (f"{kind}-seed{seed}" + (f"-{count}" if count > 1 else ""))
        try:
            if not DemoState.open(run / "demo.json", plan, seed).finished:
                return run
        except ValueError:
            continue
    raise RuntimeError("no free directory below runs/")


def _conclude(demo: Demo) -> None:
    # Drawing is imported late: it takes a second that starting should not.
    from softflow_bringup.demo import report, video

    demo.progress.begin("report")
    stages = [demo.state.stages[name] for name in STAGES]
    report.write_report(demo.run / "report.json", demo.plan.task, demo.seed, stages)
    online = BagWatch(demo.run / "online" / "bags").summaries()
    curve = demo.run / "learning_curve.png"
    report.learning_curve(curve, stages, online, demo.task)
    gif, trouble = demo.run / "before_after.gif", ""
    try:
        captions = ("after imitation", "after online RL")
        by_sight = demo.plan.eyes == "camera"
        bags = _median(demo, "imitation"), _median(demo, "online")
        video.before_after(gif, *bags, captions, by_sight=by_sight)
    except video.VideoError as error:
        trouble = str(error)
    demo.state.finished = True
    demo.progress.end(trouble or "done")
    demo.state.save()
    print()
    print(report.table(stages, demo.task.metric_label))
    print()
    wall = sum(demo.state.walls.values())
    print(f"all together {wall / 60:.1f} minutes; simulated hand, not comparable with figures from hardware")
    print(f"report         {demo.run / 'report.json'}")
    print(f"learning curve {curve}")
    print(f"before, after  {gif if not trouble else 'none: ' + trouble}")
    print(f"TensorBoard    tensorboard --logdir {demo.learner / 'tensorboard'}")
    print(f"everything     {demo.run}")


def _median(demo: Demo, stage: str) -> Path:
    """The evaluation episode in the middle: neither the best nor the worst is shown."""
    summaries: list[Summary] = BagWatch(demo.run / "eval" / stage / "bags").summaries()
    ordered = sorted(summaries, key=lambda s: s.metrics[demo.task.metric])
    return ordered[len(ordered) // 2].path
