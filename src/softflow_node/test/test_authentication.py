"""Keys and macs: any change changes the mac, no two messages share one, and a key file is refused by name."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import random
from array import array
from pathlib import Path
from typing import Any

import pytest

from softflow_node.authentication import (
    AuthenticationError,
    Freshness,
    Guard,
    Key,
    KeyFileError,
    create_key,
    encode,
)
from softflow_node.parameters import ParameterError

KEY = Key(bytes(range(32)))
SECOND = 1_000_000_000


def encoded(kind: str, values: Any) -> bytes:
    return b"".join(encode(kind, values))


def some_value(rng: random.Random, depth: int = 0) -> Any:
    """Short values of few letters, so that pairs which a careless encoding would join are likely."""
    kind = rng.randrange(6 if depth < 2 else 5)
    letters = "".join(rng.choices("ab1i\0", k=rng.randrange(4)))
    return (
        [letters, letters.encode(), rng.randrange(-2, 3), rng.random() < 0.5, float(rng.randrange(3))][kind]
        if kind < 5
        else [some_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    )


def typed(value: Any) -> Any:
    """Equal only where the types are equal too, which 1, 1.0 and True are not."""
    return (type(value), tuple(map(typed, value)) if isinstance(value, list) else value)


def test_no_two_messages_have_the_same_bytes() -> None:
    rng = random.Random(0)
    seen: dict[bytes, Any] = {}
    for _ in range(30_000):
        kind, values = rng.choice("ab"), [some_value(rng) for _ in range(rng.randrange(4))]
        what = (kind, typed(values))
        assert seen.setdefault(encoded(kind, values), what) == what
    assert len(seen) > 5_000


def test_no_message_is_the_beginning_of_another() -> None:
    rng = random.Random(1)
    made = {encoded("k", [some_value(rng) for _ in range(rng.randrange(4))]) for _ in range(20_000)}
    ordered = sorted(made)
    assert not any(b.startswith(a) for a, b in itertools.pairwise(ordered))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["ab"], ["a", "b"]),
        (["a", ["b", "c"]], ["a", ["b"], "c"]),
        (["1"], [1]),
        ([1], [True]),
        ([1.0], [1]),
        (["a"], [b"a"]),
        ([""], []),
        ([[]], []),
        ([0.0], [-0.0]),
    ],
)
def test_borders_and_types_are_part_of_what_is_signed(left: list[Any], right: list[Any]) -> None:
    assert KEY.sign("k", left) != KEY.sign("k", right)


def test_the_kind_is_part_of_what_is_signed() -> None:
    assert KEY.sign("request", ["a"]) != KEY.sign("answer", ["a"])
    assert KEY.sign("ka", []) != KEY.sign("k", ["a"])


def test_it_is_hmac_sha256_of_the_encoding_in_full_length() -> None:
    values = ["/hand0", 7, b"payload", [True, 0.5]]
    reference = hmac.new(KEY.secret, encoded("k", values), hashlib.sha256).digest()
    assert KEY.sign("k", values) == reference and len(reference) == 32


def test_every_form_of_bytes_signs_the_same() -> None:
    forms = [b"abc", bytearray(b"abc"), memoryview(b"abc"), array("B", b"abc")]
    assert len({KEY.sign("k", [form]) for form in forms}) == 1


@pytest.mark.parametrize("value", [None, {"a": 1}, array("f", [1.0]), object()])
def test_what_has_no_encoding_cannot_be_signed(value: Any) -> None:
    with pytest.raises(TypeError, match="has no encoding"):
        KEY.sign("k", [value])


def test_every_flipped_bit_of_the_mac_is_refused() -> None:
    mac = KEY.sign("k", ["a"])
    KEY.verify("k", ["a"], mac)
    for bit in range(8 * len(mac)):
        changed = bytearray(mac)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthenticationError, match=f"mac of k is not .* under key {KEY.id}"):
            KEY.verify("k", ["a"], bytes(changed))


@pytest.mark.parametrize(
    ("mac", "named"), [(b"", "is missing"), (b"x" * 16, "has 16 bytes"), (b"x" * 33, "33")]
)
def test_a_mac_of_another_length_is_refused(mac: bytes, named: str) -> None:
    with pytest.raises(AuthenticationError, match=f"mac of k .*{named}.* must have 32 bytes"):
        KEY.verify("k", ["a"], mac)
    truncated = KEY.sign("k", ["a"])[:31]
    with pytest.raises(AuthenticationError):
        KEY.verify("k", ["a"], truncated)


def test_another_key_is_refused_and_its_id_differs() -> None:
    other = Key(bytes(range(1, 33)))
    assert other.id != KEY.id
    with pytest.raises(AuthenticationError):
        KEY.verify("k", ["a"], other.sign("k", ["a"]))


def test_a_key_does_not_show_itself() -> None:
    assert KEY.secret.hex() not in repr(KEY) and repr(KEY.secret) not in repr(KEY)
    assert not KEY.secret.hex().startswith(KEY.id)


def test_a_new_key_file_is_private_and_random_and_can_be_loaded(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = [create_key(tmp_path / "deep" / name) for name in ("one", "two")]
    finally:
        os.umask(before)
    assert [Key.load(tmp_path / "deep" / name) for name in ("one", "two")] == made
    assert made[0] != made[1] and all(len(key.secret) == 32 for key in made)
    assert (tmp_path / "deep" / "one").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["one", "two"]


def test_a_key_file_is_not_overwritten(tmp_path: Path) -> None:
    key = create_key(tmp_path / "key")
    with pytest.raises(FileExistsError):
        create_key(tmp_path / "key")
    assert Key.load(tmp_path / "key") == key
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("text", "mode", "named"),
    [
        ("ab" * 32, 0o640, "mode is 0640, must be 0600"),
        ("ab" * 32, 0o604, "mode is 0604"),
        ("ab" * 31, 0o600, "has 31 bytes, must have 32 to 1024"),
        ("", 0o600, "has 0 bytes"),
        ("ab" * 1025, 0o600, "bytes, must have 32 to 1024|hex digits"),
        ("xy" * 32, 0o600, "hex digits only"),
        ("\xe9" * 64, 0o600, "hex digits only"),
    ],
)
def test_a_bad_key_file_is_refused_by_name(tmp_path: Path, text: str, mode: int, named: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=named) as caught:
        Key.load(path)
    assert str(path) in str(caught.value) and (not text or text not in str(caught.value))


def test_no_file_and_no_plain_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        Key.load(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="must be a plain file"):
        Key.load(tmp_path / "pipe")
    with pytest.raises(KeyFileError):
        Key.load(tmp_path)


def test_a_guard_without_a_key_signs_nothing_and_takes_everything(tmp_path: Path) -> None:
    guard = Guard.open("", "recorder")
    assert guard.sign("k", ["a"]) == b""
    guard.verify("k", ["a"], b"anything")
    with pytest.raises(ParameterError, match=r"recorder: parameter 'key_file': .*none: cannot be read"):
        Guard.open(str(tmp_path / "none"), "recorder")


def test_a_guard_with_a_key_refuses_what_has_no_mac(tmp_path: Path) -> None:
    create_key(tmp_path / "key")
    guard = Guard.open(str(tmp_path / "key"), "recorder")
    guard.verify("k", ["a"], guard.sign("k", ["a"]))
    with pytest.raises(AuthenticationError, match="is missing"):
        guard.verify("k", ["a"], b"")


def test_a_command_must_be_of_now_and_newer_than_the_last() -> None:
    fresh = Freshness(window=30.0)
    start = fresh._newest
    fresh.check(start + SECOND, now=start + SECOND)
    for stamp, named in ((start + SECOND, "must be above"), (start + 1, "must be above")):
        with pytest.raises(AuthenticationError, match=named):
            fresh.check(stamp, now=start + 2 * SECOND)
    now = start + 100 * SECOND
    for offset in (-31, 31):
        with pytest.raises(AuthenticationError, match=r"stamp is [+-]31.000 s .* within 30 s"):
            fresh.check(now + offset * SECOND, now=now)
    fresh.check(now - 29 * SECOND, now=now)


def test_a_command_from_before_the_start_is_refused() -> None:
    before = Freshness()._newest
    with pytest.raises(AuthenticationError, match="or of the start"):
        Freshness().check(before)
