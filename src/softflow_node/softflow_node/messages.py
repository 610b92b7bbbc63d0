"""Stamps and arrays between plain Python and messages.

`array.array` is the only type that rclpy takes into a numeric array field without converting element by element.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray

NANOSECONDS = 1_000_000_000


def to_stamp(nanoseconds: int) -> Time:
    """A stamp of integer nanoseconds."""
    sec, nanosec = divmod(nanoseconds, NANOSECONDS)
    return Time(sec=sec, nanosec=nanosec)


def from_stamp(stamp: Time) -> int:
    """Integer nanoseconds of a stamp."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def floats32(values: NDArray[Any]) -> array[float]:
    """For a float32[] field."""
    return array("f", np.ascontiguousarray(values, dtype=np.float32).tobytes())


def floats64(values: NDArray[Any]) -> array[float]:
    """For a float64[] field."""
    return array("d", np.ascontiguousarray(values, dtype=np.float64).tobytes())


def numpy32(values: array[float]) -> NDArray[np.float32]:
    """A read-only view of a received float32[] field, without a copy."""
    return np.frombuffer(values, dtype=np.float32)
