"""The weights last in force, on the robot's disk: it goes on with them when nobody offers any. Plain Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softflow_node.files import write_atomically
from softflow_policy.weights import WeightsError, sha256

RECORD = "in_force.json"


class Cache:
    """Directory layout: in_force.json, which names a weights file beside it and the versions that were rolled back."""

    def __init__(self, directory: Path) -> None:
        """Raises WeightsError where the record cannot be read."""
        self._directory = directory
        self._record = self._read(directory / RECORD)
        self.rolled_back: list[int] = [int(v) for v in self._record.get("rolled_back", [])]

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        if not path.is_file():
            return {}
        try:
            record = json.loads(path.read_bytes())
        except ValueError as error:
            raise WeightsError(f"{path}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise WeightsError(f"{path}: is a {type(record).__name__}, must be an object")
        return record

    def load(self) -> bytes | None:
        """The weights file as it was in force; None if there is none.

        Raises:
            WeightsError: it is gone or damaged; names the file.
        """
        if not self._record:
            return None
        path = self._directory / str(self._record.get("file"))
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WeightsError(f"{path}: {error}") from error
        if sha256(data) != self._record.get("sha256"):
            raise WeightsError(f"{path}: sha256 is {sha256(data)}, must be {self._record.get('sha256')}")
        return data

    def store(self, version: int, data: bytes, rolled_back: list[int]) -> None:
        """Keep these weights in the place of the ones before. Raises OSError where the disk refuses."""
        name = f"{version:06d}.safetensors"
        record = {"version": version, "file": name, "sha256": sha256(data), "rolled_back": rolled_back}
        # The record comes last: until it is renamed into place the weights before it are still whole.
        write_atomically(self._directory / name, data)
        write_atomically(self._directory / RECORD, json.dumps(record, indent=1).encode())
        self._record = record
        for path in self._directory.glob("*.safetensors"):
            if path.name != name:
                path.unlink(missing_ok=True)
