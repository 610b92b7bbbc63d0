"""Parameters as frozen dataclasses that validate themselves. Plain Python, used by nodes and command lines."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type, or out of bounds. The text names field, value and bound."""


def bounded(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] | None = None,
    unit: str = "",
    doc: str = "",
) -> Any:
    """A dataclass field with bounds (inclusive), a unit and a description."""
    metadata = {"low": low, "high": high, "choices": choices, "unit": unit, "doc": doc}
    return dataclasses.field(default=default, metadata=metadata)


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a frozen parameter dataclass of `values`; fields not named keep their default.

    Raises:
        ParameterError: unknown name (with the nearest known one), wrong type, or value out of bounds.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise ParameterError(f"{where}: parameter {name!r} (value {value!r}) is unknown; {hint}")
        checked[name] = check_value(where, known[name], hints[name], value)
    return cls(**checked)


def check_value(where: str, field: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
    """The value of one field, converted where that loses nothing. Raises ParameterError."""
    wanted: type = typing.get_origin(kind) or kind
    # `rate: 1` for a double is what people write; ROS itself would refuse it.
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is tuple and isinstance(value, (list, Sequence)) and not isinstance(value, str):
        value = tuple(value)
    if not isinstance(value, wanted) or (wanted in (int, float) and isinstance(value, bool)):
        got = type(value).__name__
        raise ParameterError(
            f"{where}: parameter {field.name!r} is {value!r} ({got}), must be {wanted.__name__}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"{where}: parameter {field.name!r} is {value!r}, must be finite")
    meta = field.metadata
    low, high, choices, unit = (meta.get(k) for k in ("low", "high", "choices", "unit"))
    if choices is not None and value not in choices:
        raise ParameterError(
            f"{where}: parameter {field.name!r} is {value!r}, allowed: {', '.join(map(str, choices))}"
        )
    if (low is not None and value < low) or (high is not None and value > high):
        bound = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
        raise ParameterError(
            f"{where}: parameter {field.name!r} is {value!r}, must be in {bound} {unit or ''}".rstrip()
        )
    return value


@dataclasses.dataclass(frozen=True)
class Validated:
    """Checks every field against its annotation and its `bounded` limits.

    Raises:
        ParameterError: names field, value and bound.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = check_value(type(self).__name__, field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
