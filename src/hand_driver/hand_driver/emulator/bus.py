"""The bus of emulated motors: a pseudo-terminal, a thread that answers on it, and what may go wrong on a wire."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import tty
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np

from hand_driver.emulator.motor import INSTRUCTION, EmulatedMotor
from hand_driver.emulator.packets import (
    BROADCAST,
    PING,
    READ,
    REBOOT,
    STATUS,
    SYNC_READ,
    SYNC_WRITE,
    WRITE,
    Decoder,
    Packet,
)


class EmulatedBus:
    """Motors behind `link`, a path that stays the same when the cable is drawn and put back.

    Faults are attributes: `latency` [s] before each answer, `drop` and `corrupt`, the probabilities a byte of an
    answer is lost or changed, `corrupt_next`, so many packets to the motors that arrive with a flipped bit, `late`,
    what a motor sends before its next answer: the parameters of an answer to an earlier question.
    """

    def __init__(self, motors: Iterable[EmulatedMotor], link: Path, seed: int = 0) -> None:
        self.motors = {m.id: m for m in motors}
        self.link = link
        self.latency = self.drop = self.corrupt = 0.0
        self.corrupt_next = 0
        self.late = b""
        self.chain = True
        """A motor answers a sync read after the one before it has; a silent one silences those after it."""
        self.instructions: dict[int, int] = {}
        """How many packets of each instruction came."""
        self.decoder = Decoder()
        self.lock = threading.RLock()
        """Held while a packet is answered; whoever looks at several motors at once takes it."""
        self._rng = np.random.default_rng(seed)
        self._master = self._slave = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="emulated bus", daemon=True)
        self.plug()
        self._thread.start()

    def __enter__(self) -> EmulatedBus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def plug(self) -> None:
        """Put the cable in: a new terminal, under the same link."""
        with self.lock:
            if self._master >= 0:
                return
            self._master, self._slave = os.openpty()
            tty.setraw(self._slave)
            self.link.unlink(missing_ok=True)
            self.link.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        """Draw the cable: reads and writes of the host fail from now on; the motors have power still."""
        with self.lock:
            for end in (self._master, self._slave):
                if end >= 0:
                    os.close(end)
            self._master = self._slave = -1
            self.link.unlink(missing_ok=True)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(5.0)
        self.unplug()

    def advance(self) -> None:
        """Let the motors come to the present, as any packet does."""
        with self.lock:
            for motor in self.motors.values():
                motor.advance(time.monotonic())

    def _run(self) -> None:
        while not self._stop.is_set():
            with self.lock:
                master = self._master
            if master < 0:
                self._stop.wait(0.002)
                continue
            try:
                ready, _, _ = select.select([master], [], [], 0.02)
                data = os.read(master, 4096) if ready else b""
            except (OSError, ValueError):
                continue  # unplugged meanwhile
            if self.corrupt_next and data:
                self.corrupt_next -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
            for packet in self.decoder.feed(data):
                with self.lock:
                    self._answer(packet)

    def _answer(self, packet: Packet) -> None:
        if packet.instruction == STATUS:
            return
        self.advance()
        self.instructions[packet.instruction] = self.instructions.get(packet.instruction, 0) + 1
        for motor in self.motors.values():
            motor.heard()
        if packet.instruction == SYNC_READ:
            self._sync_read(packet.parameters)
        elif packet.instruction == SYNC_WRITE:
            self._sync_write(packet.parameters)
        else:
            for motor in self.motors.values():
                if motor.answers and packet.id in (motor.id, BROADCAST):
                    self._single(motor, packet)

    def _single(self, motor: EmulatedMotor, packet: Packet) -> None:
        code, data = INSTRUCTION, b""
        if packet.instruction == PING:
            code, data = 0, motor.get("model_number").to_bytes(2, "little") + bytes([motor.get("firmware")])
        elif packet.instruction == READ and len(packet.parameters) == 4:
            code, data = motor.read(*_words(packet.parameters))
        elif packet.instruction == WRITE and len(packet.parameters) > 2:
            code = motor.write(_words(packet.parameters)[0], packet.parameters[2:])
        elif packet.instruction == REBOOT:
            code = 0
        self._send(motor, code, data)
        if packet.instruction == REBOOT:
            motor.reboot()

    def _sync_read(self, parameters: bytes) -> None:
        address, size = _words(parameters[:4])
        for motor_id in parameters[4:]:
            motor = self.motors.get(motor_id)
            if motor is None or not motor.answers:
                if self.chain:
                    return
                continue
            self._send(motor, *motor.read(address, size))

    def _sync_write(self, parameters: bytes) -> None:
        address, size = _words(parameters[:4])
        rest = parameters[4:]
        for start in range(0, len(rest) - size, size + 1):
            motor = self.motors.get(rest[start])
            if motor is not None and motor.answers:
                motor.write(address, rest[start + 1 : start + 1 + size])

    def _send(self, motor: EmulatedMotor, code: int, data: bytes) -> None:
        if self.latency:
            time.sleep(self.latency)
        late, self.late = self.late, b""
        answers = (late, data) if late else (data,)
        packet = b"".join(
            Packet(motor.id, STATUS, bytes([motor.status(code)]) + part).encode() for part in answers
        )
        if self.drop or self.corrupt:
            packet = self._worn(packet)
        if self._master >= 0:
            with contextlib.suppress(OSError):  # the host has closed its end
                os.write(self._master, packet)

    def _worn(self, packet: bytes) -> bytes:
        kept = bytearray()
        for byte in packet:
            lost, changed = self._rng.random(2)
            if lost >= self.drop:
                kept.append(byte ^ (1 << int(self._rng.integers(8))) if changed < self.corrupt else byte)
        return bytes(kept)


def _words(parameters: bytes) -> tuple[int, int]:
    """The first two 16-bit numbers; the second is 0 where there is none."""
    return int.from_bytes(parameters[0:2], "little"), int.from_bytes(parameters[2:4], "little")
