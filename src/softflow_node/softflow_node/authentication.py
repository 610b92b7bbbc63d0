"""Who said it: HMAC-SHA256 (RFC 2104) under a key that robots and learner share. Plain Python.

What is signed is an injective encoding: a text that names the kind of message, then every value with a tag for its type
and its length before it. Two different messages therefore never have the same bytes under the key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import struct
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softflow_node.files import fsync
from softflow_node.parameters import ParameterError

Value = bool | int | float | str | bytes | bytearray | memoryview | array | Sequence["Value"]

MAC_BYTES = 32
KEY_BYTES = 32
"""A new key has this many random bytes; a shorter one is refused."""
MAX_KEY_BYTES = 1024
WINDOW = 30.0
"""[s] between the stamp of a command and its arrival, at most."""
_DOMAIN = b"softflow hmac 1"


class AuthenticationError(ValueError):
    """A message that nobody with the key has sent so. The text names what, field, value and bound."""


class KeyFileError(ValueError):
    """A file that cannot serve as a key. The text names field, value and bound."""


def encode(kind: str, values: Sequence[Value]) -> Iterator[bytes]:
    """The pieces of the bytes to sign. Raises TypeError at a value that has no encoding."""
    yield _DOMAIN
    yield from _encode_value(kind)
    yield from _encode_value(list(values))


def _encode_value(value: Value) -> Iterator[bytes]:
    # A bool is an int to Python, so it comes first.
    if isinstance(value, bool):
        tag, data = b"b", repr(value).encode()
    elif isinstance(value, int):
        tag, data = b"i", str(value).encode()
    elif isinstance(value, float):
        tag, data = b"f", struct.pack(">d", value)
    elif isinstance(value, str):
        tag, data = b"s", value.encode("utf-8", "surrogatepass")
    elif isinstance(value, (bytes, bytearray, memoryview)):
        tag, data = b"y", bytes(value)
    elif isinstance(value, array) and value.typecode == "B":
        tag, data = b"y", value.tobytes()
    elif isinstance(value, (list, tuple)):
        # The number of items, and each item brings its own length.
        yield b"l" + struct.pack(">Q", len(value))
        for item in value:
            yield from _encode_value(item)
        return
    else:
        raise TypeError(f"a value of type {type(value).__name__} has no encoding to be signed")
    yield tag + struct.pack(">Q", len(data))
    yield data


@dataclass(frozen=True)
class Key:
    """A shared secret. Its id may be shown and compared; the secret stays out of texts and logs."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not KEY_BYTES <= len(self.secret) <= MAX_KEY_BYTES:
            raise KeyFileError(
                f"the key has {len(self.secret)} bytes, must have {KEY_BYTES} to {MAX_KEY_BYTES}"
            )

    @classmethod
    def load(cls, path: Path) -> Key:
        """The key in a file of hex digits that only its owner can read.

        Raises:
            KeyFileError: missing, not a plain file, readable by others, owned by another user, not hex, too short.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                _check_access(path, os.fstat(descriptor))
                text = file.read(2 * MAX_KEY_BYTES + 2)
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            secret = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            raise KeyFileError(f"{path}: must hold hex digits only; ./softflow key FILE makes one") from None
        try:
            return cls(secret)
        except KeyFileError as error:
            raise KeyFileError(f"{path}: {error}") from None

    @property
    def id(self) -> str:
        """Tells two keys apart, 16 hex digits; says nothing about the secret."""
        return self.sign("key id", [])[:8].hex()

    def sign(self, kind: str, values: Sequence[Value]) -> bytes:
        """The mac of a message of this kind, 32 bytes. Raises TypeError."""
        mac = hmac.new(self.secret, digestmod=hashlib.sha256)
        for piece in encode(kind, values):
            mac.update(piece)
        return mac.digest()

    def verify(self, kind: str, values: Sequence[Value], mac: bytes) -> None:
        """Raises AuthenticationError unless somebody with the key signed exactly this."""
        if len(mac) != MAC_BYTES:
            what = "is missing" if not mac else f"has {len(mac)} bytes"
            raise AuthenticationError(
                f"mac of {kind} {what}, must have {MAC_BYTES} bytes under key {self.id}"
            )
        if not hmac.compare_digest(self.sign(kind, values), mac):
            raise AuthenticationError(f"mac of {kind} is not the one of its contents under key {self.id}")


def _check_access(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path}: must be a plain file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: mode is {mode:04o}, must be 0600 or 0400: nobody but its owner may use it"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"{path}: owner is user {status.st_uid}, must be user {os.geteuid()} or root")


def create_key(path: Path) -> Key:
    """A new key in a new file of mode 0600, complete or not there at all.

    Raises:
        FileExistsError: a file of that name is there; it stays as it is.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = Key(secrets.token_bytes(KEY_BYTES))
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(key.secret.hex().encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        # A link, not a rename: it fails where the name is taken.
        os.link(temporary, path)
    finally:
        temporary.unlink()
    fsync(path.parent)
    return key


@dataclass(frozen=True)
class Guard:
    """Signs what a node sends and checks what it gets; without a key it does neither."""

    key: Key | None = None

    @classmethod
    def open(cls, key_file: str, where: str) -> Guard:
        """Of the parameter `key_file`, empty = no key. Raises ParameterError."""
        if not key_file:
            return cls()
        try:
            return cls(Key.load(Path(key_file)))
        except KeyFileError as error:
            raise ParameterError(f"{where}: parameter 'key_file': {error}") from error

    def sign(self, kind: str, values: Sequence[Value]) -> bytes:
        """The mac; empty without a key."""
        return self.key.sign(kind, values) if self.key else b""

    def verify(self, kind: str, values: Sequence[Value], mac: bytes) -> None:
        """Raises AuthenticationError; never without a key."""
        if self.key:
            self.key.verify(kind, values, mac)


class Freshness:
    """Commands whose stamps must be of now and must grow, so that a recorded one cannot be sent again."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = round(window * 1e9)
        # One that was sent before this process began may have been carried out by the process before it.
        self._newest = time.time_ns()

    def check(self, stamp: int, now: int | None = None) -> None:
        """`stamp` and `now`: Unix time [ns]. Raises AuthenticationError; the stamp counts as used otherwise."""
        now = time.time_ns() if now is None else now
        if abs(now - stamp) > self._window:
            raise AuthenticationError(
                f"stamp is {(stamp - now) / 1e9:+.3f} s from this clock, must be within {self._window / 1e9:g} s"
            )
        if stamp <= self._newest:
            raise AuthenticationError(
                f"stamp is {stamp} ns, must be above {self._newest} ns: that of the command before, or of the start"
            )
        self._newest = stamp
