"""Which of the announced versions a robot obeys. Plain Python.

Versions grow. What is in force is the newest version announced as active that has not been rolled back; because that
depends on the set of announcements alone, repeated, reordered and replayed ones change nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from softflow_policy.weights import MAX_BYTES, WeightsError

REMEMBERED = 256
"""Versions that are known to be rolled back, at most."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class State(enum.IntEnum):
    """What a manifest says of its version; the numbers are those of PolicyManifest.msg."""

    CANDIDATE = 0
    ACTIVE = 1
    ROLLED_BACK = 2


@dataclass(frozen=True)
class Announcement:
    """One version, as its learner announces it. Raises WeightsError that names field, value and bound."""

    version: int
    sha256: str
    """of the whole file, hex"""
    size: int
    """[bytes] of the whole file"""
    spec_hash: str
    layout_hash: str
    state: State

    def __post_init__(self) -> None:
        if self.version < 1:
            raise WeightsError(f"version is {self.version}, must be at least 1")
        if not _SHA256.fullmatch(self.sha256):
            raise WeightsError(
                f"sha256 of version {self.version} is {self.sha256!r}, must be 64 hexadecimal digits"
            )
        if not 0 < self.size <= MAX_BYTES:
            raise WeightsError(
                f"size of version {self.version} is {self.size} bytes, must be in [1, {MAX_BYTES}]"
            )

    def same_file(self, other: Announcement) -> bool:
        """Whether both speak of the same weights."""
        return (self.version, self.sha256) == (other.version, other.sha256)


@dataclass(frozen=True)
class InForce:
    """The weights that act; version 0 = none yet."""

    version: int = 0
    sha256: str = ""


class Versions:
    """What a robot has in force, what it is on the way to, and what it tries out."""

    def __init__(self, rolled_back: Iterable[int] = ()) -> None:
        self.active = InForce()
        self.goal: Announcement | None = None
        """Announced as active, not in force yet."""
        self.trial: Announcement | None = None
        """Announced as candidate, loaded or on its way."""
        self.rolled_back: list[int] = sorted(rolled_back)

    def accept(self, said: Announcement) -> bool:
        """Take in an announcement; False if it says nothing new.

        Raises:
            WeightsError: it is stale, was rolled back, or names another file under a known version.
        """
        for known in (self.active, self.goal, self.trial):
            if known and known.version == said.version and known.sha256 != said.sha256:
                raise WeightsError(
                    f"sha256 of version {said.version} is {said.sha256}, must be {known.sha256} as announced "
                    "before: do two learners offer weights?"
                )
        if said.state is State.ROLLED_BACK:
            return self._roll_back(said.version)
        if said.version in self.rolled_back:
            raise WeightsError(f"version {said.version} was rolled back, must be another one")
        return self._accept_active(said) if said.state is State.ACTIVE else self._accept_candidate(said)

    def _accept_active(self, said: Announcement) -> bool:
        ahead = self._ahead()
        if said.version == ahead.version:
            return False
        if said.version < ahead.version and ahead.version not in self.rolled_back:
            raise WeightsError(
                f"version {said.version} is stale, must be greater than {ahead.version}, which is not rolled back"
            )
        self.goal = said
        if self.trial and self.trial.version < said.version:
            self.trial = None
        return True

    def _accept_candidate(self, said: Announcement) -> bool:
        ahead = self._ahead()
        if said.version == ahead.version or (self.trial and self.trial.version == said.version):
            return False
        newest = max(ahead.version, self.trial.version if self.trial else 0)
        if said.version < newest:
            raise WeightsError(f"candidate version {said.version} is stale, must be greater than {newest}")
        self.trial = said
        return True

    def _roll_back(self, version: int) -> bool:
        if version in self.rolled_back:
            return False
        self.rolled_back = sorted([*self.rolled_back, version])[-REMEMBERED:]
        if self.goal and self.goal.version == version:
            self.goal = None
        if self.trial and self.trial.version == version:
            self.trial = None
        return True

    def _ahead(self) -> Announcement | InForce:
        return self.goal or self.active

    def put_in_force(self, version: int, sha256: str) -> None:
        """These weights act from now on."""
        self.active = InForce(version, sha256)
        if self.goal and self.goal.version == version:
            self.goal = None
        if self.trial and self.trial.version <= version:
            self.trial = None

    def give_up(self, said: Announcement) -> None:
        """It cannot be used; what is in force stays."""
        if self.goal and self.goal.same_file(said):
            self.goal = None
        if self.trial and self.trial.same_file(said):
            self.trial = None

    def wanted(self, said: Announcement) -> bool:
        """Whether it is still to be loaded."""
        return any(known is not None and known.same_file(said) for known in (self.goal, self.trial))
