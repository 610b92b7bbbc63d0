"""Stamps, arrays and macs between plain Python and messages.

`array.array` is the only type that rclpy takes into a numeric array field without converting element by element.
"""

from __future__ import annotations

import struct
import time
from array import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray

from softflow_node.authentication import Freshness, Guard, Value

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


def sign_message(guard: Guard, message: Any, *context: Value) -> None:
    """Fill in the mac: of all other fields, and of what the receiver knows besides, such as the nonce it sent."""
    message.mac = array("B", guard.sign(_kind(message), [list(context), _signed_fields(message)]))


def check_message(guard: Guard, message: Any, *context: Value) -> None:
    """Raises AuthenticationError unless the message was signed so, with this context. Passes without a key."""
    if guard.key:
        guard.verify(_kind(message), [list(context), _signed_fields(message)], bytes(message.mac))


def sign_command(guard: Guard, request: Any) -> None:
    """A request with `stamp` and `mac`: stamped now, then signed."""
    request.stamp = time.time_ns()
    sign_message(guard, request)


def check_command(guard: Guard, freshness: Freshness, request: Any) -> None:
    """Raises AuthenticationError unless it was signed, and stamped just now. Passes without a key."""
    check_message(guard, request)
    if guard.key:
        freshness.check(request.stamp)


def _kind(message: Any) -> str:
    """`softflow_msgs/srv/PushExperience_Response`."""
    package, folder, *_ = type(message).__module__.split(".")
    return f"{package}/{folder}/{type(message).__name__}"


def _signed_fields(message: Any) -> list[Value]:
    """(name, value) of every field but the mac, as the interface lists them: a new field is signed without more."""
    kinds: dict[str, str] = message.get_fields_and_field_types()
    return [[name, _plain(getattr(message, name), kind)] for name, kind in kinds.items() if name != "mac"]


def _plain(value: Any, kind: str) -> Value:
    if kind == "float":
        # The wire rounds it.
        return struct.pack(">f", value)
    if hasattr(value, "get_fields_and_field_types"):
        return _signed_fields(value)
    plain: Value = value
    return plain
