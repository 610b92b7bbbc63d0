"""`python -m hand_driver.emulator HAND LINK`: the motors of a hand file on a pseudo-terminal, until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import numpy as np

from hand_driver.emulator.bus import EmulatedBus
from hand_driver.emulator.motor import EmulatedMotor
from hand_driver.hand_file import HandFileError, load_hand


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 stopped, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m hand_driver.emulator", description=__doc__)
    parser.add_argument("hand", help="name in config/hands, or path of a YAML file, with motors")
    parser.add_argument("link", type=Path, help="where its port is to be: what `bus.port` of the file names")
    options = parser.parse_args(arguments)
    try:
        spec = load_hand(options.hand)
    except HandFileError as error:
        parser.error(str(error))
    if not spec.motors:
        parser.error(f"{spec.name} has no motors")
    coupling, offsets = spec.motor_matrix
    ticks = np.rint((coupling @ spec.values("neutral") + offsets) * 4096 / (2 * np.pi))
    motors = [EmulatedMotor(m.id, int(t)) for m, t in zip(spec.motors, ticks, strict=True)]
    # Blocked here, and so in the thread of the bus too, for sigwait to get them.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with EmulatedBus(motors, options.link):
        print(f"{len(motors)} motors of {spec.name} on {options.link}", flush=True)
        signal.sigwait(stops)
    return 0


if __name__ == "__main__":
    sys.exit(main())
