"""Whether the cameras may be relied on, by what is said of them; whoever learns waits until they may. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from softflow_tasks.hand_watch import HandWatch


def why_blind(faults: Mapping[str, str]) -> str:
    """Why nothing may be judged by sight, as an episode's cause: `camera: text`; empty when all are well.

    `faults`: name of a camera -> what is wrong with it, empty where nothing is.
    """
    down = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    more = f" (and {len(down) - 1} more)" if len(down) > 1 else ""
    return f"{down[0]}{more}" if down else ""


@dataclass
class CameraWatch(HandWatch):
    """Since when a camera is down, and why: `why` as `why_blind`."""

    def text(self) -> str:
        """What keeps episodes from being played; empty while nothing does."""
        return f"a camera is down: {self.why}; episodes go on when it is well again" if self.why else ""
