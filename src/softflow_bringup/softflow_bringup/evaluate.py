"""`softflow eval`: a policy on fixed start states, through the nodes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from softflow_bringup.cameras import add_pictures
from softflow_bringup.domain import private_domain
from softflow_bringup.episodes import GraphFailedError, run_episodes
from softflow_bringup.values import GraphError
from softflow_experiments.statistics import bootstrap
from softflow_node.arguments import within
from softflow_tasks import make_task, task_ids


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="softflow eval", description="Measure a policy on fixed start states."
    )
    parser.add_argument("--weights", type=Path, required=True, help="weights file (safetensors)")
    parser.add_argument(
        "--run", type=Path, default=None, help="directory; default: runs/eval-<name of the weights>"
    )
    parser.add_argument("--episodes", type=within(int, 1, 10**6), default=20)
    parser.add_argument("--task", choices=task_ids(), default="CubeRotation-v0")
    parser.add_argument(
        "--seed", type=int, default=0, help="of start states and noise; equal seeds are comparable"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="of the policy's chunks: 1 = as learned, 0 = no chance in them; default: as graph inference says",
    )
    parser.add_argument("--speed", default="max", help="simulated against real time: a number or max")
    parser.add_argument("--eyes", choices=("none", "camera"), default="none", help="see the graph argument")
    add_pictures(parser, "for a policy that sees: of these cameras, with + between them")
    parser.add_argument(
        "--classifier", type=Path, metavar="FILE", help="that says what a success is, by --pictures"
    )
    options = parser.parse_args(argv)
    metric = make_task(options.task).metric
    for name in ("weights", "classifier"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            print(f"softflow eval: {name}: {str(path)!r} is not a file", file=sys.stderr)
            return 2
    run = options.run or Path("runs") / f"eval-{options.weights.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    arguments = {
        "task": options.task,
        "seed": options.seed,
        "speed": options.speed,
        "eyes": options.eyes,
        "pictures": options.pictures,
        "classifier": options.classifier.resolve() if options.classifier else "",
        "weights": options.weights.resolve(),
    }
    if options.temperature is not None:
        arguments["temperature"] = options.temperature
    try:
        with private_domain():
            summaries = run_episodes(
                "inference", arguments, run, options.episodes, lambda _: None, time.sleep
            )
    except (GraphFailedError, GraphError, ValueError, OSError) as error:
        print(f"softflow eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command with --run goes on")
        return 130
    estimate = bootstrap([s.metrics[metric] for s in summaries])
    result = {"metric": metric, "mean": estimate.mean, "ci95": [estimate.low, estimate.high], "n": estimate.n}
    print(f"{metric}: {estimate}")
    if options.classifier:
        seen = bootstrap([float(s.success) for s in summaries])
        result |= {"success_by_classifier": seen.mean, "success_ci95": [seen.low, seen.high]}
        print(f"success by the classifier: {seen}")
    (run / "result.json").write_text(json.dumps(result, indent=1))
    print(f"folder: {run}")
    return 0
