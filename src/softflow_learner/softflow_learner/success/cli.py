"""`softflow classifier`: learn to see success in the pictures of labelled bags; judge and reward others."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from softflow_learner.success.calibration import UnreachableError
from softflow_learner.success.data import Labelling, Pictures, PicturesError, load_episodes
from softflow_learner.success.judging import judge_bags, sheet, write_rewards
from softflow_learner.success.making import Report, make_classifier
from softflow_learner.success.training import TrainSettings
from softflow_node.files import write_atomically
from softflow_node.parameters import ParameterError
from softflow_policy.success.file import ClassifierError, load_classifier, save_classifier
from softflow_policy.success.model import SuccessSpec
from softflow_recorder.bag import BagError
from softflow_recorder.labels import LabelError

PRINT_EVERY = 2.0
"""[s] between two lines of progress."""
REFUSED = (PicturesError, ClassifierError, UnreachableError, ParameterError, BagError, LabelError, OSError)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns 0, 1 where bags were refused, 2 after an error: then nothing more is written."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        return int(options.run(options))
    except REFUSED as error:
        print(f"softflow classifier: {error}", file=sys.stderr)
        return 2


def train_classifier(options: argparse.Namespace) -> int:
    """Train, print how well it does, write it and the picture of its calibration."""
    labelling = Labelling(options.success_reward, options.hold, options.margin)
    spec = SuccessSpec(cameras="+".join(options.cameras), image_size=options.image_size)
    settings = TrainSettings(updates=options.updates, seed=options.seed)
    episodes, refused = load_episodes(
        options.bags, spec.camera_names, spec.image_size, options.success_reward
    )
    _print_refused(refused)
    sources = sorted({e.source for e in episodes if e.success is not None})
    succeeded = sum(e.success is not None for e in episodes)
    print(f"{len(episodes)} episodes, {succeeded} succeeded, said by: {', '.join(sources) or 'nobody'}")
    classifier, report = make_classifier(
        spec,
        episodes,
        labelling,
        settings,
        precision=options.precision,
        held_out=options.held_out,
        progress=_Printer(),
    )
    _print_report(report)
    if not report.chosen.precision >= options.precision:
        print(
            f"the test's precision is below {options.precision:g}, which the calibration's pictures had: more episodes"
        )
    from softflow_learner.success.picture import calibration_png  # matplotlib takes a second to load

    picture = options.out.with_name(f"{options.out.stem}_calibration.png")
    save_classifier(options.out, classifier)
    write_atomically(picture, calibration_png(options.out.name, report))
    print(f"{options.out}\n{picture}")
    return 1 if refused else 0


def judge(options: argparse.Namespace) -> int:
    """Print what it finds in each episode; with --write, reward it."""
    classifier = load_classifier(options.classifier)
    verdicts, refused = judge_bags(classifier, options.bags)
    _print_refused(refused)
    if not verdicts:
        raise PicturesError(f"bags: {', '.join(map(str, options.bags))} hold no episode that can be judged")
    written = 0
    for verdict in verdicts:
        print(verdict.line())
        for label in write_rewards(verdict, classifier.info.success_reward) if options.write else ():
            written += 1
            print(
                f"  revision {label.revision}: reward {label.values[0]:g} for step {label.start}, "
                f"{label.source}, confidence {label.confidence:.3f}"
            )
    wrong = [v for v in verdicts if v.compared and not v.agrees]
    alarms = sum(v.episode.success is None for v in wrong)
    agreed, alone = sum(v.agrees for v in verdicts), sum(not v.compared for v in verdicts)
    counts = f"{agreed} agree, {alarms} false alarms, {len(wrong) - alarms} missed"
    counts += f", {alone} judged by a classifier only" if alone else ""
    done = f"; {written} rewards written" if options.write else ""
    print(f"{len(verdicts)} episodes: {counts}{done}")
    if options.sheet:
        write_atomically(options.sheet, sheet(verdicts))
        print(options.sheet)
    return 1 if refused else 0


def _print_refused(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"refused: {line}", file=sys.stderr)


def _print_report(report: Report) -> None:
    for name, part in zip(("trained", "calibrated", "tested"), report.parts, strict=True):
        print(f"{name} on {_size(part)}")
    print(f"test: AUC {report.auc:.4f}, expected calibration error {report.calibration_error:.4f}")
    print(f"{'said':>10}{'found':>10}{'pictures':>10}")
    for b in report.bins:
        print(f"{b.said:>10.3f}{b.found:>10.3f}{b.count:>10}")
    print(f"{'threshold':>10}{'precision':>10}{'recall':>10}{'false alarms an episode':>26}")
    for r in (*report.rows, report.chosen):
        chosen = "  chosen" if r is report.chosen else ""
        print(f"{r.threshold:>10.3g}{r.precision:>10.3f}{r.recall:>10.3f}{r.false_alarms:>26.3f}{chosen}")


def _size(part: Pictures) -> str:
    return f"{part.episodes} episodes, {len(part.truth)} pictures, {part.successes} of them of success"


class _Printer:
    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, update: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._printed >= PRINT_EVERY or update == total:
            self._printed = now
            print(f"update {update}/{total}  loss {loss:.4f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="softflow classifier", description="Success from pictures.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = commands.add_parser("train", help="learn from the pictures and labels of bags")
    command.add_argument("--bags", type=Path, nargs="+", required=True, metavar="DIR")
    command.add_argument("--cameras", nargs="+", required=True, metavar="NAME")
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="such as success.safetensors"
    )
    command.add_argument("--precision", type=float, default=0.99, help="that the threshold must have")
    command.add_argument("--success-reward", type=float, default=1.0, help="a step with it or more succeeds")
    command.add_argument(
        "--hold", type=int, default=1, help="pictures from the first success on that show it"
    )
    command.add_argument("--margin", type=int, default=2, help="pictures just before it that are not used")
    command.add_argument("--held-out", type=float, default=0.4, help="share of the episodes")
    command.add_argument("--updates", type=int, default=TrainSettings.updates)
    command.add_argument("--image-size", type=int, default=SuccessSpec.image_size, help="pixels")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=train_classifier)
    judging = commands.add_parser(
        "judge", help="say what a classifier sees in bags; reward them with --write"
    )
    judging.add_argument("--classifier", type=Path, required=True, metavar="FILE")
    judging.add_argument("--bags", type=Path, nargs="+", required=True, metavar="DIR")
    judging.add_argument("--write", action="store_true", help="append its rewards, source classifier")
    judging.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="the picture of each episode it judged"
    )
    judging.set_defaults(run=judge)
    for each in (command, judging):
        each.add_argument("--threads", type=int, default=1, help="of PyTorch")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
