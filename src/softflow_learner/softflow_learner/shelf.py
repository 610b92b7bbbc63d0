"""Weights that the learner offers: written to disk, served in blocks. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softflow_node.files import write_atomically
from softflow_policy.download import BLOCK
from softflow_policy.weights import WeightsInfo


@dataclass(frozen=True)
class Offer:
    """One version, complete in memory."""

    info: WeightsInfo
    data: bytes
    sha256: str
    spec_hash: str


class Shelf:
    """Holds the last versions; an older one is still served to a policy node that is in the middle of it."""

    def __init__(self, directory: Path, keep: int = 3) -> None:
        self._directory, self._keep = directory, keep
        self._offers: dict[int, Offer] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def newest_on_disk(self) -> int:
        """Version of the newest file, also of an earlier process; 0 = none."""
        return max((int(p.stem) for p in self._directory.glob("*.safetensors")), default=0)

    def put(self, offer: Offer) -> Path:
        """Offer a version; returns the file it was written to (atomically)."""
        path = self._directory / f"{offer.info.version:06d}.safetensors"
        write_atomically(path, offer.data)
        self._offers[offer.info.version] = offer
        for version in sorted(self._offers)[: -self._keep]:
            del self._offers[version]
            (self._directory / f"{version:06d}.safetensors").unlink(missing_ok=True)
        return path

    def block(self, version: int, offset: int, length: int) -> tuple[bytes, int]:
        """A piece of a file and the size of the whole.

        Raises:
            ValueError: naming field, value and bound.
        """
        if version not in self._offers:
            known = ", ".join(map(str, sorted(self._offers))) or "none"
            raise ValueError(f"version {version} is not on offer; on offer: {known}")
        data = self._offers[version].data
        if not 0 <= offset < len(data):
            raise ValueError(f"offset is {offset}, must be in [0, {len(data) - 1}]")
        if not 0 < length <= BLOCK:
            raise ValueError(f"length is {length}, must be in [1, {BLOCK}]")
        return data[offset : offset + length], len(data)
