"""`softflow bags`: look at recorded episodes, check, repair and label them, export them as arrays. Plain Python."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softflow_node.files import write_atomically
from softflow_recorder.bag import (
    BagError,
    episode_bags,
    read_episode,
    read_information,
    read_messages,
    read_summary,
)
from softflow_recorder.episode import EpisodeData
from softflow_recorder.labelling import find_bag, label_bag
from softflow_recorder.labels import SOURCES, Label, LabelError, checked, read_labels
from softflow_recorder.repair import Repaired, repair_all

Arrays = dict[str, NDArray[np.float32]]
OTHER_FORMATS = ("import", "to-lerobot", "from-lerobot")
"""Commands of softflow_exchange."""
SHOWN = 8
"""Rewards of a label that are printed."""


def main(argv: Sequence[str]) -> int:
    """Entry point; returns 0, 1 where bags are broken or none can be used, 2 after wrong usage."""
    if argv and argv[0] in OTHER_FORMATS:
        # Imported by name: the robot side has no need of it, nor of what it needs.
        return int(importlib.import_module("softflow_exchange.cli").main(argv))
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except (BagError, LabelError, NotADirectoryError) as error:
        print(f"softflow bags: {error}", file=sys.stderr)
        return 2


def list_bags(directory: Path) -> int:
    """Print one line a bag: name, complete, mode, source, steps, metrics, and the last reward given after the fact."""
    rows: list[tuple[str, ...]] = [("name", "complete", "mode", "source", "steps", "metrics", "label")]
    rows += [_row(path) for path in bags_in(directory)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(path: Path) -> tuple[str, ...]:
    try:
        summary = read_summary(path)
    except BagError:
        return (path.name, "damaged", "", "", "", "", "")
    if summary is None:
        return (path.name, "not closed", "", "", "", "", "")
    metrics = ", ".join(f"{name} {value:.2f}" for name, value in summary.metrics.items() if name != "steps")
    complete = "yes" if summary.complete else "recovered" if summary.recovered else "no"
    return (
        path.name,
        complete,
        summary.mode,
        summary.source,
        str(summary.steps),
        metrics,
        _newest_label(path),
    )


def _newest_label(path: Path) -> str:
    try:
        labels = read_labels(path)
    except LabelError:
        return "damaged"
    return f"{labels[-1].source} {labels[-1].values[-1]:g}" if labels else ""


def show_bag(path: Path) -> int:
    """Print the topics of a bag with their counts, and what its recorder wrote about it."""
    information = read_information(path)
    width = max((len(topic) for topic, _, _ in information.topics), default=0)
    for topic, kind, count in information.topics:
        print(f"{count:8d}  {topic.ljust(width)}  {kind}")
    for key, value in information.custom.items():
        print(f"{key}: {value}")
    for label in read_labels(path):
        when = datetime.fromtimestamp(label.stamp / 1e9, tz=timezone.utc).isoformat(timespec="seconds")
        print(f"label {_label_text(label)}; {when}")
    return 0


def check_bags(directory: Path) -> int:
    """Read every bag in full and say what is wrong; an episode that is marked as incomplete is not an error."""
    broken = 0
    bags = bags_in(directory)
    for path in bags:
        try:
            print(f"{path.name}: {_check(path)}")
        except BagError as error:
            broken += 1
            print(f"{path.name}: BROKEN: {error}")
    print(f"{len(bags)} bags, {broken} broken")
    return 1 if broken else 0


def _check(path: Path) -> str:
    custom = read_information(path).custom
    if custom.get("complete") == "false":
        count = sum(1 for _ in read_messages(path))
        usable = f", {custom['steps']} steps can be used" if custom.get("recovered") == "true" else ""
        why = custom.get("why", "no reason given")
        return f"readable ({count} messages{usable}), marked as incomplete: {why}"
    episode = read_episode(path)
    return f"ok, {episode.steps} steps"


def repair_bags(directory: Path, keep: bool) -> int:
    """Close what was left open and replace what is damaged by what is sound of it; says what it did."""
    failed = 0
    if not directory.is_dir():
        raise NotADirectoryError(f"{str(directory)!r} is not a directory")
    for done in repair_all(directory, keep):
        if not isinstance(done, Repaired):
            failed += 1
            print(f"NOT REPAIRED: {done}")
            continue
        what = "complete" if done.complete else f"{done.steps} steps can be used"
        kept = f"; the original is in {done.kept.name}" if done.kept else ""
        print(f"{done.path.name}: {done.why}: {done.messages} messages recovered, {what}{kept}")
    return 1 if failed else 0


def label_episodes(options: argparse.Namespace) -> int:
    """Add a revision of rewards to bags, each given by its directory or its episode's id; to all of them or to none."""
    if (options.start is None) != (options.values is None):
        raise LabelError("--start and --values: one is given, must be both, or else --success or --failure")
    bags = [Path(bag) if Path(bag).is_dir() else find_bag(options.directory, bag) for bag in options.bags]
    wanted = [(bag, *_values(bag, options)) for bag in bags]
    for bag, start, values in wanted:
        checked(start, values, options.source, options.confidence, _steps(bag))
    for bag, start, values in wanted:
        label = label_bag(bag, start, values, options.source, options.confidence)
        print(f"{bag.name}: {_label_text(label)}")
    return 0


def _values(bag: Path, options: argparse.Namespace) -> tuple[int, list[float]]:
    """First step and rewards: those that were given, or that of the last step."""
    if options.values is not None:
        return options.start, options.values
    return _steps(bag) - 1, [options.reward if options.success else 0.0]


def _steps(bag: Path) -> int:
    summary = read_summary(bag)
    if summary is None:
        raise BagError(f"{bag}: not closed: it can be labelled when its episode has ended")
    return summary.steps


def _label_text(label: Label) -> str:
    steps = f"steps {label.start} to {label.end - 1}"
    values = ", ".join(f"{value:g}" for value in label.values[:SHOWN])
    more = ", ..." if len(label.values) > SHOWN else ""
    return (
        f"revision {label.revision}: {steps}, {label.source}, confidence {label.confidence:g}: {values}{more}"
    )


def export_bags(directory: Path, file: Path) -> int:
    """Write all complete episodes as one .npz file, in the names of OGBench and Q-chunking data sets."""
    episodes: list[EpisodeData] = []
    for path in bags_in(directory):
        try:
            episode = read_episode(path)
            if episodes and episode.layout_hash != episodes[0].layout_hash:
                raise BagError(f"{path}: layout_hash is {episode.layout_hash!r}, of another task or version")
            episodes.append(episode)
        except BagError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not episodes:
        print(f"softflow bags: {str(directory)!r} holds no complete episode", file=sys.stderr)
        return 1
    buffer = io.BytesIO()
    arrays = as_arrays(episodes)
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type] # numpy's stub takes no mapping of arrays
    write_atomically(file, buffer.getvalue())
    print(f"{file}: {len(episodes)} episodes, {len(arrays['rewards'])} steps")
    return 0


def as_arrays(episodes: Sequence[EpisodeData]) -> Arrays:
    """Steps of all episodes, one after another, float32.

    observations, next_observations (N, S), actions (N, A) as applied, rewards (N,), masks (N,) = 0 where the step
    terminated the episode (no bootstrap), terminals (N,) = 1 at the end of each episode, time-outs included.
    """
    masks, terminals = [], []
    for episode in episodes:
        ends = np.zeros(episode.steps, dtype=np.float32)
        ends[-1] = 1.0
        terminals.append(ends)
        masks.append(1.0 - ends * np.float32(episode.terminated))
    return {
        "observations": np.concatenate([e.states[:-1] for e in episodes]),
        "actions": np.concatenate([e.actions for e in episodes]),
        "rewards": np.concatenate([e.rewards for e in episodes]),
        "masks": np.concatenate(masks),
        "terminals": np.concatenate(terminals),
        "next_observations": np.concatenate([e.states[1:] for e in episodes]),
    }


def bags_in(directory: Path) -> list[Path]:
    """Bags below a directory, in the order of their names. Raises NotADirectoryError."""
    if not directory.is_dir():
        raise NotADirectoryError(f"{str(directory)!r} is not a directory")
    return episode_bags(directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="softflow bags",
        description="Look at recorded episodes.",
        epilog=f"From and to other formats: {', '.join(OTHER_FORMATS)} (each with --help; docs/exchange.md).",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = commands.add_parser("list", help="one line for each bag of a directory")
    command.add_argument("directory", type=Path)
    command.set_defaults(run=lambda options: list_bags(options.directory))
    command = commands.add_parser("show", help="topics and metadata of one bag")
    command.add_argument("bag", type=Path)
    command.set_defaults(run=lambda options: show_bag(options.bag))
    command = commands.add_parser(
        "check", help="read each bag of a directory in full; exit code 1 if one is broken"
    )
    command.add_argument("directory", type=Path)
    command.set_defaults(run=lambda options: check_bags(options.directory))
    command = commands.add_parser("repair", help="close bags that a crash left open; replace damaged ones")
    command.add_argument("directory", type=Path)
    command.add_argument("--keep", action="store_true", help="the originals too, as BAG.damaged")
    command.set_defaults(run=lambda options: repair_bags(options.directory, options.keep))
    command = commands.add_parser("label", help="give steps of episodes new rewards, as a new revision")
    command.add_argument(
        "bags", nargs="+", metavar="BAG|EPISODE", help="directory of a bag, or the id of an episode"
    )
    command.add_argument("--directory", type=Path, default=Path("."), help="of the bags, to find an episode")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--success", action="store_true", help="the last step gets --reward")
    what.add_argument("--failure", action="store_true", help="the last step gets 0")
    what.add_argument("--values", type=float, nargs="+", help="rewards, one a step")
    command.add_argument("--start", type=int, help="first step of --values")
    command.add_argument("--reward", type=float, default=1.0, help="of a success")
    command.add_argument("--source", choices=SOURCES, default="human")
    command.add_argument("--confidence", type=float, default=1.0, help="0..1")
    command.set_defaults(run=label_episodes)
    command = commands.add_parser("export", help="complete episodes as arrays for other learners")
    command.add_argument("directory", type=Path)
    command.add_argument("file", type=Path, metavar="FILE.npz")
    command.set_defaults(run=lambda options: export_bags(options.directory, options.file))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
