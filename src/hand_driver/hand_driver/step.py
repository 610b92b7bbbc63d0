"""What a control step of the driver was and did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hand_driver.device import FloatArray
from hand_driver.playback import Playing
from hand_driver.safety_core import Decision, Mode


@dataclass(frozen=True)
class Step:
    """Where an episode stands after a control step."""

    episode_id: str
    seed: int
    step: int
    stamp: int
    """[ns] robot clock"""
    applied: FloatArray
    command: FloatArray
    """[rad, m] (J,)"""
    starved: bool
    source: str = ""
    """Whom the step followed; empty: nobody."""
    stiffness: FloatArray = field(default_factory=lambda: np.zeros(0))
    """(J,) share of the current limits"""
    mode: Mode = Mode.HOLD


@dataclass(frozen=True)
class Outcome:
    """What a control step did."""

    decision: Decision
    done: Playing | None
    """The chunk whose last step this was."""
    stopped: Playing | None
    """The chunk that was cut off, because of `decision.refused`."""
