"""Batches cut into rows, moved, and sent as bytes. Never a pickle."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softflow_learner.replay import Batch

Layout = dict[str, tuple[str, list[int]]]
"""field, or field/key of a dictionary -> type of its numbers, shape of a row"""


def part(batch: Batch, rows: range) -> Batch:
    """These rows of it."""
    return mapped(batch, lambda tensor: tensor[rows.start : rows.stop])


def layout_of(batch: Batch) -> Layout:
    """What a batch is made of, for JSON."""
    return {name: (str(t.dtype).removeprefix("torch."), list(t.shape[1:])) for name, t in named(batch)}


def named(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name in a `Layout`."""
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, dict):
            yield from ((f"{field.name}/{key}", tensor) for key, tensor in value.items())
        elif value is not None:
            yield field.name, value


def row_bytes(dtype: str, shape: Sequence[int]) -> int:
    """[bytes] of a row."""
    return int(getattr(torch, dtype).itemsize) * math.prod(shape)


def pack(batch: Batch) -> Tensor:
    """All numbers as bytes, field by field."""
    return torch.cat([t.contiguous().view(-1).view(torch.uint8) for _, t in named(batch)])


def unpack(data: Tensor, layout: Layout, rows: int) -> Batch:
    """The batch of `rows` rows that was packed."""
    values: dict[str, Any] = {}
    for name, (dtype, shape) in layout.items():
        size = rows * row_bytes(dtype, shape)
        own, data = data[:size].clone(), data[size:]  # A copy starts at an address that fits its type.
        field, _, key = name.partition("/")
        tensor = own.view(getattr(torch, dtype)).view(rows, *shape)
        if key:
            values.setdefault(field, {})[key] = tensor
        else:
            values[field] = tensor
    return Batch(**values)


def bytes_tensor(data: bytes) -> Tensor:
    """A copy of bytes."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor changed, those in dictionaries too; what is None stays None."""

    def one(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: change(tensor) for name, tensor in value.items()}
        return value if value is None else change(value)

    return Batch(**{f.name: one(getattr(batch, f.name)) for f in dataclasses.fields(Batch)})
