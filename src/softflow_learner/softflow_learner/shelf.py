"""Weights that the learner offers, and what has become of each version: kept on disk, served in blocks. Plain Python.

RUN/weights/NNNNNN.safetensors   the files
RUN/weights/versions.json        state and reason of every version, the truth after a restart
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from softflow_node.files import write_atomically
from softflow_policy.download import BLOCK
from softflow_policy.versions import State
from softflow_policy.weights import WeightsError, WeightsInfo, read_metadata, sha256

RECORD = "versions.json"
REMEMBERED = 256
"""Versions without a file whose fate is still known, at most."""


@dataclass(frozen=True)
class Offer:
    """One version, complete in memory."""

    info: WeightsInfo
    data: bytes
    sha256: str
    spec_hash: str


@dataclass(frozen=True)
class Entry:
    """What the shelf knows of a version, also when its file is gone."""

    version: int
    parent: int
    sha256: str
    size: int
    """[bytes]"""
    spec_hash: str
    layout_hash: str
    gradient_step: int
    stage: str
    state: State
    acted: bool
    """Whether it has been announced as active."""
    reason: str = ""


class ShelfError(ValueError):
    """Something the shelf does not have or cannot do. The text names field, value and bound."""


class Shelf:
    """Keeps the files of the last versions, of the last that were in force, and of the one that is.

    An older one is so still served to a policy node that is in the middle of it, and there is one to go back to.
    """

    def __init__(self, directory: Path, keep: int = 8) -> None:
        """Raises ShelfError where the record cannot be read."""
        self._directory, self._keep = directory, keep
        self._offers: dict[int, Offer] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self.entries: dict[int, Entry] = read_entries(directory)

    # -- What there is

    @property
    def newest(self) -> int:
        """The greatest version so far, 0 = none."""
        return max(self.entries, default=0)

    @property
    def active(self) -> int:
        """The version in force: the newest that was announced as active and not rolled back; 0 = none."""
        return max((v for v, e in self.entries.items() if e.state is State.ACTIVE), default=0)

    @property
    def candidate(self) -> int:
        """The newest version above the active one that nobody has judged yet; 0 = none."""
        found = (v for v, e in self.entries.items() if e.state is State.CANDIDATE and v > self.active)
        return max(found, default=0)

    @property
    def held(self) -> bool:
        """Whether somebody went back from a newer version than the active one, and promoted none since."""
        return any(
            v > self.active and e.state is State.ROLLED_BACK and e.acted for v, e in self.entries.items()
        )

    @property
    def rolled_back(self) -> list[int]:
        """Versions that must not act, oldest first."""
        return sorted(v for v, e in self.entries.items() if e.state is State.ROLLED_BACK)

    def files(self) -> list[int]:
        """Versions whose file is here."""
        return sorted(v for v in self.entries if self._path(v).is_file())

    def offer(self, version: int) -> Offer:
        """A version in memory.

        Raises:
            ShelfError: it is not here, or its file is damaged.
        """
        if version not in self._offers:
            if version not in self.files():
                known = ", ".join(map(str, self.files())) or "none"
                raise ShelfError(f"version {version} is not on offer; on offer: {known}")
            self._offers[version] = self._read(version)
        return self._offers[version]

    def _read(self, version: int) -> Offer:
        path, entry = self._path(version), self.entries[version]
        data = path.read_bytes()
        if sha256(data) != entry.sha256:
            raise ShelfError(f"{path}: sha256 is {sha256(data)}, must be {entry.sha256}")
        spec, info = read_metadata(data)
        return Offer(info, data, entry.sha256, spec.spec_hash())

    def block(self, version: int, offset: int, length: int) -> tuple[bytes, int]:
        """A piece of a file and the size of the whole.

        Raises:
            ShelfError: naming field, value and bound.
        """
        data = self.offer(version).data
        if not 0 <= offset < len(data):
            raise ShelfError(f"offset is {offset}, must be in [0, {len(data) - 1}]")
        if not 0 < length <= BLOCK:
            raise ShelfError(f"length is {length}, must be in [1, {BLOCK}]")
        return data[offset : offset + length], len(data)

    # -- Changes, each durable when it returns; none is made where OSError is raised

    def put(self, offer: Offer, state: State = State.ACTIVE, reason: str = "") -> Path:
        """Add a version; returns the file it was written to (atomically)."""
        path = self._path(offer.info.version)
        write_atomically(path, offer.data)
        with self._recorded():
            self.entries[offer.info.version] = _entry(offer, state, reason)
            self._tidy()
        self._offers[offer.info.version] = offer
        return path

    def promote(self, version: int, reason: str) -> None:
        """Put a candidate in force.

        Raises:
            ShelfError: it is not on the shelf, damaged, rolled back, or older than the active one.
        """
        self.offer(version)
        if version < self.active:
            raise ShelfError(
                f"version is {version}, must be greater than {self.active}, which is in force; "
                "a rollback goes back to an older one"
            )
        if self.entries[version].state is State.ROLLED_BACK:
            raise ShelfError(f"version {version} was rolled back: {self.entries[version].reason}")
        with self._recorded():
            self._change(version, State.ACTIVE, reason)

    def withdraw(self, version: int, reason: str) -> None:
        """A candidate has failed."""
        with self._recorded():
            self._change(version, State.ROLLED_BACK, reason)

    def roll_back(self, target: int, reason: str) -> tuple[int, list[int]]:
        """Go back to a version that was in force; 0 = the one before the active one.

        Returns the version in force and all newer ones, which are rolled back and never come back.

        Raises:
            ShelfError: there is none, it is not on the shelf, damaged, never was in force, or was rolled back.
        """
        target = target or self._before_active()
        self.offer(target)
        entry = self.entries[target]
        if entry.state is not State.ACTIVE or target >= self.active:
            possible = ", ".join(map(str, self._possible())) or "none"
            raise ShelfError(
                f"version is {target} ({entry.state.name.lower()}), must be one that was in force before "
                f"{self.active}: {possible}"
            )
        newer = [v for v, e in self.entries.items() if v > target and e.state is not State.ROLLED_BACK]
        with self._recorded():
            for version in newer:
                self._change(version, State.ROLLED_BACK, reason)
        return target, sorted(newer)

    def _possible(self) -> list[int]:
        return [v for v in self.files() if v < self.active and self.entries[v].state is State.ACTIVE]

    def _before_active(self) -> int:
        if not self._possible():
            raise ShelfError(f"version is 0, but no version was in force before {self.active}")
        return self._possible()[-1]

    def _change(self, version: int, state: State, reason: str) -> None:
        entry = self.entries[version]
        acted = entry.acted or state is State.ACTIVE
        self.entries[version] = dataclasses.replace(entry, state=state, acted=acted, reason=reason)

    def _tidy(self) -> None:
        here = self.files()
        in_force = [v for v in here if self.entries[v].state is State.ACTIVE]
        keep = {*here[-self._keep :], *in_force[-self._keep :], self.active}
        for version in here:
            if version not in keep:
                self._offers.pop(version, None)
                self._path(version).unlink(missing_ok=True)
        # In memory only what robots may be fetching; the rest is read when it is asked for.
        self._offers = {v: o for v, o in self._offers.items() if v in here[-self._keep :]}
        for version in sorted(set(self.entries) - keep)[:-REMEMBERED]:
            del self.entries[version]

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Entries that are changed within are written at the end, or are what they were: robots hear of no others."""
        before = dict(self.entries)
        try:
            yield
            rows = [dataclasses.asdict(e) | {"state": e.state.name} for _, e in sorted(self.entries.items())]
            write_atomically(self._directory / RECORD, json.dumps({"versions": rows}, indent=1).encode())
        except OSError:
            self.entries = before
            raise

    def _path(self, version: int) -> Path:
        return self._directory / f"{version:06d}.safetensors"


def read_entries(directory: Path) -> dict[int, Entry]:
    """By version, as the record says; files without any record were all in force once.

    Raises:
        ShelfError: the record cannot be read.
    """
    record = directory / RECORD
    if not record.is_file():
        return _entries_of_files(directory)
    try:
        rows = json.loads(record.read_bytes())["versions"]
        found = [Entry(**{**row, "state": State[row["state"]]}) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ShelfError(f"{record}: not a list of versions: {error!r}") from error
    return {entry.version: entry for entry in found}


def _entries_of_files(directory: Path) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        try:
            spec, info = read_metadata(data)
        except WeightsError:
            continue  # half a file of another program: not ours to serve
        found[info.version] = _entry(Offer(info, data, sha256(data), spec.spec_hash()), State.ACTIVE, "")
    return found


def _entry(offer: Offer, state: State, reason: str) -> Entry:
    info = offer.info
    return Entry(
        version=info.version,
        parent=info.parent,
        sha256=offer.sha256,
        size=len(offer.data),
        spec_hash=offer.spec_hash,
        layout_hash=info.layout_hash,
        gradient_step=info.gradient_step,
        stage=info.stage,
        state=state,
        acted=state is State.ACTIVE,
        reason=reason,
    )
