"""Macs of the real messages: they survive the wire, and any changed field is noticed."""

from __future__ import annotations

import time
from array import array
from typing import Any

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from softflow_msgs.msg import ExperienceItem, PolicyManifest, PolicyReceipt
from softflow_msgs.srv import GetResumePoint, PromotePolicy, PushExperience, RollbackPolicy

from softflow_node.authentication import AuthenticationError, Freshness, Guard, Key
from softflow_node.messages import check_command, check_message, sign_command, sign_message, to_stamp

GUARD = Guard(Key(bytes(range(32))))
OTHER = Guard(Key(bytes(range(1, 33))))
MESSAGES = [
    ExperienceItem(robot="/hand0", boot="b", seq=3, kind=1, crc32=7, payload=array("B", b"data")),
    GetResumePoint.Request(robot="/hand0", boot="b", nonce=2**64 - 1),
    GetResumePoint.Response(acknowledged_seq=3, credits=8),
    PushExperience.Response(acknowledged_seq=3, credits=8, errors=["one", "two"]),
    PolicyManifest(version=4, parent=3, sha256="ab", size=9, stage="online", reason="canary"),
    PolicyReceipt(robot="/hand0", version=4, sha256="ab", outcome=1, detail="d", swap_time=0.1),
    PromotePolicy.Request(version=4, reason="r", stamp=5),
    RollbackPolicy.Request(version=4, reason="r", stamp=5),
]
CONTEXT = (7, "/hand0", "boot")


def name(message: Any) -> str:
    return type(message).__name__


def over_the_wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


def changed(value: Any) -> Any:
    """A value of the same type that differs."""
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, array):
        return array(value.typecode, [*value, 1])
    if isinstance(value, list):
        return [*value, ""]
    if hasattr(value, "stamp"):
        return type(value)(stamp=to_stamp(1))
    return value - 1 if value else value + 1


def signed(message: Any, *context: Any) -> Any:
    sign_message(GUARD, message, *context)
    return over_the_wire(message)


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_a_mac_survives_the_wire(message: Any) -> None:
    received = signed(message, *CONTEXT)
    check_message(GUARD, received, *CONTEXT)
    assert len(received.mac) == 32


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_every_changed_field_is_noticed(message: Any) -> None:
    fields = [field for field in message.get_fields_and_field_types() if field != "mac"]
    assert fields
    for field in fields:
        received = signed(message, *CONTEXT)
        setattr(received, field, changed(getattr(received, field)))
        with pytest.raises(AuthenticationError, match=f"mac of softflow_msgs/.*{name(message)}"):
            check_message(GUARD, received, *CONTEXT)


@pytest.mark.parametrize(
    "context", [(), (8, "/hand0", "boot"), (7, "/hand1", "boot"), (7, "/hand0", "b"), (7,)]
)
def test_an_answer_belongs_to_its_call(context: tuple[Any, ...]) -> None:
    received = signed(PushExperience.Response(acknowledged_seq=3), *CONTEXT)
    with pytest.raises(AuthenticationError):
        check_message(GUARD, received, *context)


def test_messages_of_equal_fields_and_different_kind_have_different_macs() -> None:
    values = {"version": 4, "reason": "r", "stamp": 5}
    macs = {bytes(signed(kind(**values)).mac) for kind in (PromotePolicy.Request, RollbackPolicy.Request)}
    assert len(macs) == 2


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_another_key_or_no_mac_is_refused_and_without_a_key_all_pass(message: Any) -> None:
    received = signed(message)
    with pytest.raises(AuthenticationError, match=f"under key {OTHER.key and OTHER.key.id}"):
        check_message(OTHER, received)
    check_message(Guard(), received)
    received.mac = array("B")
    with pytest.raises(AuthenticationError, match="is missing"):
        check_message(GUARD, received)
    sign_message(Guard(), received)
    assert not received.mac


@pytest.mark.parametrize("kind", [PromotePolicy.Request, RollbackPolicy.Request])
def test_a_command_is_carried_out_once(kind: Any) -> None:
    fresh = Freshness()
    first, second = kind(version=4), kind(version=3)
    for request in (first, second):
        sign_command(GUARD, request)
    check_command(GUARD, fresh, over_the_wire(first))
    for replayed in (first, first):
        with pytest.raises(AuthenticationError, match="must be above"):
            check_command(GUARD, fresh, over_the_wire(replayed))
    check_command(GUARD, fresh, over_the_wire(second))


def test_a_forged_command_does_not_use_up_a_stamp() -> None:
    fresh = Freshness()
    forged, true = (PromotePolicy.Request(version=4) for _ in range(2))
    sign_command(GUARD, true)
    sign_command(OTHER, forged)
    with pytest.raises(AuthenticationError):
        check_command(GUARD, fresh, forged)
    check_command(GUARD, fresh, true)


def test_an_old_command_is_refused_and_needs_no_stamp_without_a_key() -> None:
    request = RollbackPolicy.Request(version=4, stamp=time.time_ns() - 31 * 10**9)
    sign_message(GUARD, request)
    with pytest.raises(AuthenticationError, match="within 30 s"):
        check_command(GUARD, Freshness(), request)
    check_command(Guard(), Freshness(), RollbackPolicy.Request())
