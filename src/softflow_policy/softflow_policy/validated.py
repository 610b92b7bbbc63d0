"""A base for frozen configuration dataclasses that refuse to exist with a bad value."""

from __future__ import annotations

import dataclasses
import typing

from softflow_node.parameters import check_value


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
