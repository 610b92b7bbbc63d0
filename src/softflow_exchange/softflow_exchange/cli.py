"""`softflow bags import`, `to-lerobot`, `from-lerobot`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from softflow_exchange.importing import Import, OutputError, read_rosbags, understand, write, write_all
from softflow_exchange.lerobot_format import DatasetError
from softflow_exchange.lerobot_read import Dataset, read_ours, read_recordings
from softflow_exchange.lerobot_write import write_dataset
from softflow_exchange.mapping import FRAMES, MappingError
from softflow_exchange.mapping_file import load_mapping
from softflow_recorder.bag import BagError, read_episode
from softflow_recorder.cli import bags_in
from softflow_recorder.episode import EpisodeData


def main(argv: Sequence[str]) -> int:
    """Entry point; returns 0, 1 where something could not be imported, 2 after wrong usage."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except (DatasetError, MappingError, OutputError, OSError) as error:
        print(f"softflow bags: {error}", file=sys.stderr)
        return 2


def import_bags(options: argparse.Namespace) -> int:
    """Foreign bags through a mapping file."""
    mapping = load_mapping(options.mapping)
    if mapping.time == FRAMES:
        raise MappingError(f"{mapping.path}: inputs are features of a LeRobot dataset: use from-lerobot")
    return _finish(understand(read_rosbags(options.bags, mapping), mapping), options.out, options.dry_run)


def to_lerobot(options: argparse.Namespace) -> int:
    """Our bags as a LeRobotDataset; an episode that is incomplete or of another task is left out and named."""
    left_out = 0

    def episodes() -> Iterator[EpisodeData]:
        nonlocal left_out
        layout = ""
        for path in bags_in(options.directory):
            try:
                episode = read_episode(path)
                layout = layout or episode.layout_hash
                if episode.layout_hash != layout:
                    raise BagError(
                        f"{path}: layout_hash is {episode.layout_hash!r}, of another task or version"
                    )
                yield episode
            except BagError as error:
                left_out += 1
                print(f"left out: {error}", file=sys.stderr)

    count, frames = write_dataset(episodes(), options.out, options.task_text)
    print(f"{options.out}: {count} episodes, {frames} frames, {left_out} left out")
    return 0


def from_lerobot(options: argparse.Namespace) -> int:
    """A LeRobotDataset as our bags."""
    dataset = Dataset(options.dataset)
    if dataset.cameras:
        print(f"not imported, bags take no images from here: {', '.join(dataset.cameras)}")
    if options.mapping is not None:
        mapping = load_mapping(options.mapping)
        if mapping.time != FRAMES:
            raise MappingError(f"{mapping.path}: inputs are topics of bags: use import")
        return _finish(understand(read_recordings(dataset, mapping), mapping), options.out, options.dry_run)
    found = list(read_ours(dataset, images=False))
    for item in found:
        print(f"{item.origin}: {item.episode.episode_id}, {item.episode.steps} steps")
    print(f"{len(found)} episodes, {sum(item.episode.steps for item in found)} steps")
    if options.dry_run:
        print("dry run: nothing is written")
        return 0
    print(f"{options.out}: {len(write_all(found, options.out, {}))} bags")
    return 0


def _finish(result: Import, out: Path, dry_run: bool) -> int:
    print("\n".join(result.lines()))
    if dry_run:
        print("dry run: nothing is written")
    elif result.episodes:
        print(f"{out}: {len(write(result, out))} bags")
    return 1 if result.problems or not result.episodes else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="softflow bags", description="Episodes from and to other formats.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = commands.add_parser("import", help="episodes from foreign rosbags, through a mapping file")
    command.add_argument("bags", type=Path, nargs="+", metavar="BAG")
    command.add_argument("--mapping", type=Path, required=True, metavar="FILE", help="see docs/exchange.md")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where our own bags go")
    command.add_argument("--dry-run", action="store_true", help="say what would be imported, write nothing")
    command.set_defaults(run=import_bags)
    command = commands.add_parser("to-lerobot", help="our bags as a LeRobotDataset v3.0")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("out", type=Path, metavar="OUT", help="a directory that does not exist yet")
    command.add_argument(
        "--task-text", default="", metavar="TEXT", help="what LeRobot calls the task; default its id"
    )
    command.set_defaults(run=to_lerobot)
    command = commands.add_parser("from-lerobot", help="a LeRobotDataset v3 as our bags")
    command.add_argument("dataset", type=Path, metavar="DATASET")
    command.add_argument("out", type=Path, metavar="OUT", help="where our own bags go")
    command.add_argument("--mapping", type=Path, metavar="FILE", help="for a data set that others made")
    command.add_argument("--dry-run", action="store_true", help="say what would be imported, write nothing")
    command.set_defaults(run=from_lerobot)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
