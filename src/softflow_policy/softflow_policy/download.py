"""Collects a weights file piece by piece. Plain Python."""

from __future__ import annotations

import zlib

from softflow_policy.versions import Announcement
from softflow_policy.weights import WeightsError

BLOCK = 1 << 20
"""[bytes] asked for at once."""


class Download:
    """One announced file on its way; its hash is checked when it is loaded."""

    def __init__(self, said: Announcement) -> None:
        self.said = said
        self._data = bytearray()

    @property
    def data(self) -> bytes:
        """What has arrived."""
        return bytes(self._data)

    @property
    def offset(self) -> int:
        """[bytes] where the next block starts."""
        return len(self._data)

    @property
    def length(self) -> int:
        """[bytes] to ask for next; 0 = complete."""
        return min(BLOCK, self.said.size - self.offset)

    def add(self, data: bytes, crc32: int, size: int) -> None:
        """Add the next block. Raises WeightsError that names field, value and bound."""
        version = self.said.version
        if size != self.said.size:
            raise WeightsError(
                f"size of version {version} is now {size} bytes, the manifest said {self.said.size}"
            )
        if zlib.crc32(data) != crc32:
            raise WeightsError(
                f"crc32 of the block at {self.offset} of version {version} is {zlib.crc32(data)}, must be {crc32}"
            )
        if len(data) != self.length:
            raise WeightsError(
                f"block at {self.offset} of version {version} has {len(data)} bytes, must have {self.length}"
            )
        self._data += data
