"""What a hand is to a task: names and limits of its joints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HandModel:
    """Arrays are (J,) in the order of `joint_names`; [rad], and [m] for a prismatic joint."""

    name: str
    joint_names: tuple[str, ...]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    max_velocity: NDArray[np.float64]
    """[rad/s], prismatic [m/s]"""
