"""Back ends by name. A back end is imported only when it is chosen, so that no vendor package is needed otherwise."""

from __future__ import annotations

import importlib

from hand_driver.device import Hand

_BACKENDS = {"sim": ("hand_driver.backends.sim", "SimulatedHand")}


def backend_names() -> tuple[str, ...]:
    """Names that `make_hand` knows."""
    return tuple(sorted(_BACKENDS))


def make_hand(backend: str, task_id: str) -> Hand:
    """Make the hand of a back end. Raises ValueError for an unknown name."""
    if backend not in _BACKENDS:
        raise ValueError(f"backend: {backend!r} is unknown; known: {', '.join(backend_names())}")
    module, name = _BACKENDS[backend]
    hand: Hand = getattr(importlib.import_module(module), name)(task_id)
    return hand
