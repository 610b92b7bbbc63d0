"""Paths of fields in messages: `position`, `pose.position.x`, `data[2]`, `fingers[].angle`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PART = re.compile(r"([A-Za-z_]\w*)((?:\[\d*\])*)")
_INDEX = re.compile(r"\[(\d*)\]")


class FieldError(ValueError):
    """A path that cannot be read, or that a message has not; the text names the path and what is there."""


@dataclass(frozen=True)
class FieldPath:
    """A path, parsed. `[]` takes every element of an array, `[2]` the third."""

    text: str
    parts: tuple[str | int | None, ...]
    """Names, indices, and None for every element."""

    @classmethod
    def parse(cls, text: str) -> FieldPath:
        """Raises FieldError."""
        parts: list[str | int | None] = []
        for piece in text.split("."):
            match = _PART.fullmatch(piece)
            if match is None:
                raise FieldError(
                    f"{text!r} is no path of fields, allowed: name, name.name, name[2], name[].name"
                )
            parts.append(match[1])
            parts += [int(index) if index else None for index in _INDEX.findall(match[2])]
        return cls(text, tuple(parts))

    def of(self, message: Any) -> list[Any]:
        """Every value under the path, arrays spread out. Raises FieldError."""
        found = [message]
        for part in self.parts:
            found = [value for item in found for value in self._step(item, part)]
        return [value for item in found for value in _spread(item)]

    def _step(self, item: Any, part: str | int | None) -> list[Any]:
        if isinstance(part, str):
            if not hasattr(item, part):
                names = getattr(item, "__dataclass_fields__", {})
                known = ", ".join(n for n in names if not n.startswith("__")) or "none"
                raise FieldError(f"{self.text!r}: there is no field {part!r}; fields here: {known}")
            return [getattr(item, part)]
        if isinstance(item, str) or not hasattr(item, "__len__"):
            raise FieldError(f"{self.text!r}: {type(item).__name__} is no array, it has no [...]")
        if part is None:
            return list(item)
        if part >= len(item):
            raise FieldError(f"{self.text!r}: index is {part}, the array has {len(item)} elements")
        return [item[part]]


def _spread(item: Any) -> list[Any]:
    if isinstance(item, np.ndarray):
        return list(item.reshape(-1))
    return list(item) if isinstance(item, (list, tuple)) else [item]


def numbers(values: list[Any], path: str) -> NDArray[np.float64]:
    """Values of fields as float64 (k,); a boolean is 0 or 1. Raises FieldError."""
    for value in values:
        if not isinstance(value, (bool, int, float, np.number, np.bool_)):
            raise FieldError(f"{path!r}: holds {type(value).__name__}, must be numbers")
    return np.array([float(value) for value in values])
