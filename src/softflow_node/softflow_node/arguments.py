"""Numbers on a command line, with an error that names the value and its bounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def within(kind: type[Number], low: Number, high: Number) -> Callable[[str], Number]:
    """The `type` of an argparse option: an int or a float in [low, high]."""

    def parse(text: str) -> Number:
        try:
            value: float = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            wanted = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"is {text!r}, must be {wanted} in [{low}, {high}]")
        return kind(value)

    return parse
