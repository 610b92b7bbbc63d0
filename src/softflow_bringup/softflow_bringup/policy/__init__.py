"""`softflow policy`: the versions on a learner's shelf; promote one, or go back to an older one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from softflow_learner.shelf import ShelfError, read_entries
from softflow_node.authentication import Guard
from softflow_node.parameters import ParameterError
from softflow_policy.versions import State


def main(argv: Sequence[str]) -> int:
    """Entry point; returns 0, 1 where the learner refuses or does not answer, 2 after wrong usage."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "list":
            return list_versions(options.run)
        return _request(options)
    except (ShelfError, ParameterError, OSError) as error:
        print(f"softflow policy: {error}", file=sys.stderr)
        return 2


def list_versions(run: Path) -> int:
    """Print one line a version: state, step, file, reason. Needs no learner. Raises ShelfError."""
    directory = run / "weights"
    if not directory.is_dir():
        raise ShelfError(f"run: {str(run)!r} has no folder 'weights', must be a learner's run directory")
    entries = read_entries(directory)
    active = max((v for v, e in entries.items() if e.state is State.ACTIVE), default=0)
    rows = [("version", "parent", "state", "stage", "step", "sha256", "file", "reason")]
    for version, entry in sorted(entries.items()):
        state = entry.state.name.lower().replace("_", " ")
        if entry.state is State.ACTIVE and version != active:
            state = "superseded"
        here = "yes" if (directory / f"{version:06d}.safetensors").is_file() else "no"
        parent, step = str(entry.parent), str(entry.gradient_step)
        rows.append((str(version), parent, state, entry.stage, step, entry.sha256[:8], here, entry.reason))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _request(options: argparse.Namespace) -> int:
    from softflow_bringup.policy.node import ask_learner

    guard = Guard.open(options.key_file, "softflow policy")
    ok, message = ask_learner(options.command, options.learner, options.version, options.reason, guard)
    print(message if ok else f"softflow policy: {message}", file=sys.stdout if ok else sys.stderr)
    return 0 if ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="softflow policy",
        description=__doc__,
        epilog="promote and rollback talk to the running learner.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="what is on the shelf, read from its run directory")
    listing.add_argument("--run", type=Path, required=True, help="the learner's run directory")
    promote = commands.add_parser("promote", help="put a version of the shelf in force")
    promote.add_argument("version", type=int)
    rollback = commands.add_parser("rollback", help="go back to a version that was in force")
    rollback.add_argument("version", type=int, nargs="?", default=0, help="default: the one before")
    for command in (promote, rollback):
        command.add_argument("--reason", required=True, help="kept with the version, told to the robots")
        command.add_argument("--key-file", default="", help="the key shared with the learner, if it has one")
        command.add_argument("--learner", default="/learner", help="namespace of the learner's services")
    return parser
