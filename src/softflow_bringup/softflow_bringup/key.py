"""`softflow key FILE`: the key under which robots and learner sign what they send each other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from softflow_node.authentication import Key, KeyFileError, create_key

EXIT_USAGE = 2


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="softflow key",
        description="Make a key file (mode 0600, 32 random bytes). Copy it to every machine of a robot or learner, "
        "and give it to the graphs as key_file:=FILE. See docs/security.md.",
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="new file; one that is there is not overwritten"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the id of a key that is there, to compare it"
    )
    options = parser.parse_args(argv)
    try:
        key = Key.load(options.file) if options.show else create_key(options.file)
    except FileExistsError:
        print(f"softflow key: {options.file} is there already and stays as it is", file=sys.stderr)
        return EXIT_USAGE
    except (KeyFileError, OSError) as error:
        print(f"softflow key: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(f"{options.file}: key {key.id}")
    return 0
