"""Units that sources come in, and their factor to the SI unit that everything here uses."""

from __future__ import annotations

import math

UNITS: dict[str, tuple[str, float]] = {
    "1": ("1", 1.0),
    "percent": ("1", 0.01),
    "rad": ("rad", 1.0),
    "mrad": ("rad", 1e-3),
    "deg": ("rad", math.pi / 180.0),
    "turn": ("rad", 2.0 * math.pi),
    "rad/s": ("rad/s", 1.0),
    "deg/s": ("rad/s", math.pi / 180.0),
    "rpm": ("rad/s", math.pi / 30.0),
    "m": ("m", 1.0),
    "cm": ("m", 1e-2),
    "mm": ("m", 1e-3),
    "m/s": ("m/s", 1.0),
    "cm/s": ("m/s", 1e-2),
    "mm/s": ("m/s", 1e-3),
    "A": ("A", 1.0),
    "mA": ("A", 1e-3),
    "s": ("s", 1.0),
    "ms": ("s", 1e-3),
    "N": ("N", 1.0),
    "N*m": ("N*m", 1.0),
    "mN*m": ("N*m", 1e-3),
}
"""Name -> (SI unit, factor)."""
