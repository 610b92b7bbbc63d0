"""Dynamixel motors that speak Protocol 2.0 on a pseudo-terminal, so that the real SDK runs without a motor.

Written from the manual, not from the back end: it has register tables of its own.
"""

from hand_driver.emulator.bus import EmulatedBus
from hand_driver.emulator.motor import EmulatedMotor

__all__ = ["EmulatedBus", "EmulatedMotor"]
