"""Collects a weights file piece by piece and checks it as a whole. Plain Python."""

from __future__ import annotations

import hashlib
import zlib

from softflow_policy.weights import WeightsError

BLOCK = 1 << 20
"""[bytes] asked for at once."""
MAX_SIZE = 1 << 30
"""[bytes] a larger announcement is refused before anything is fetched."""


class Download:
    """One weights file on its way."""

    def __init__(self, version: int, size: int, sha256: str) -> None:
        if not 0 < size <= MAX_SIZE:
            raise WeightsError(f"size of version {version} is {size} bytes, must be in [1, {MAX_SIZE}]")
        self.version, self.size, self.sha256 = version, size, sha256
        self._data = bytearray()

    @property
    def offset(self) -> int:
        """[bytes] where the next block starts."""
        return len(self._data)

    @property
    def length(self) -> int:
        """[bytes] to ask for next; 0 = complete."""
        return min(BLOCK, self.size - self.offset)

    def add(self, data: bytes, crc32: int, size: int) -> None:
        """Add the next block. Raises WeightsError that names field, value and bound."""
        if size != self.size:
            raise WeightsError(
                f"size of version {self.version} is now {size} bytes, the manifest said {self.size}"
            )
        if zlib.crc32(data) != crc32:
            raise WeightsError(f"crc32 of the block at {self.offset} is {zlib.crc32(data)}, must be {crc32}")
        if len(data) != self.length:
            raise WeightsError(f"block at {self.offset} has {len(data)} bytes, must have {self.length}")
        self._data += data

    def finish(self) -> bytes:
        """The whole file. Raises WeightsError when its hash is not the announced one."""
        digest = hashlib.sha256(self._data).hexdigest()
        if digest != self.sha256:
            raise WeightsError(
                f"sha256 of version {self.version} is {digest}, the manifest said {self.sha256}"
            )
        return bytes(self._data)
