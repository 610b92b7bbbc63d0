"""`softflow bags import`, `to-lerobot`, `from-lerobot`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from softflow_exchange.importing import Import, OutputError, read_rosbags, understand, write
from softflow_exchange.mapping import MappingError
from softflow_exchange.mapping_file import load_mapping

COMMANDS = ("import", "to-lerobot", "from-lerobot")


def main(argv: Sequence[str]) -> int:
    """Entry point; returns 0, 1 where something could not be imported, 2 after wrong usage."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except (MappingError, OutputError, NotADirectoryError) as error:
        print(f"softflow bags: {error}", file=sys.stderr)
        return 2


def import_bags(options: argparse.Namespace) -> int:
    """Foreign bags through a mapping file."""
    mapping = load_mapping(options.mapping)
    return _finish(understand(read_rosbags(options.bags, mapping), mapping), options.out, options.dry_run)


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
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
