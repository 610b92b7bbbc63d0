"""Dynamixel X motors through the vendor's SDK, Protocol 2.0: registers as data, errors as OSError.

Registers: https://emanual.robotis.com/docs/en/dxl/x/xm430-w350/ and xl330-m288.
"""

from __future__ import annotations

import contextlib
import termios
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import serial
from dynamixel_sdk import (
    COMM_RX_TIMEOUT,
    COMM_SUCCESS,
    GroupSyncRead,
    GroupSyncWrite,
    PortHandler,
    Protocol2PacketHandler,
)

ALERT = 0x80
"""Of a status packet's error byte: the motor reports a hardware error."""
POLL = 0.0005
"""[s] that a read waits for bytes; the SDK itself would spin."""
LENGTH, ERROR, LENGTH_OF_THE_REST = 5, 8, 4
"""Of a status packet: where its length and its error byte are, and what counts besides parameters."""
ATTEMPTS = 3
"""At what may be asked twice without harm."""
WRITE_LIMIT = 0.1
"""[s] after which a port that takes no bytes counts as lost."""


@dataclass(frozen=True)
class Register:
    """A field of the control table."""

    address: int
    size: int
    signed: bool = False

    def decode(self, data: bytes) -> int:
        return int.from_bytes(data, "little", signed=self.signed)

    def encode(self, value: int) -> list[int]:
        return list(value.to_bytes(self.size, "little", signed=self.signed))


RETURN_DELAY = Register(9, 1)
OPERATING_MODE = Register(11, 1)
TORQUE_ENABLE = Register(64, 1)
HARDWARE_ERROR = Register(70, 1)
POSITION_D, POSITION_I, POSITION_P = Register(80, 2), Register(82, 2), Register(84, 2)
BUS_WATCHDOG = Register(98, 1, signed=True)
GOAL_CURRENT = Register(102, 2, signed=True)
PROFILE_ACCELERATION, PROFILE_VELOCITY = Register(108, 4), Register(112, 4)
GOAL_POSITION = Register(116, 4, signed=True)
PRESENT_CURRENT = Register(126, 2, signed=True)
PRESENT_VELOCITY = Register(128, 4, signed=True)
PRESENT_POSITION = Register(132, 4, signed=True)
PRESENT_TEMPERATURE = Register(146, 1)

CURRENT_BASED_POSITION = 5
WATCHDOG_UNIT = 0.020
"""[s]"""
VELOCITY_UNIT = 0.229 * 6.283185307179586 / 60.0
"""[rad/s] of present velocity and of the profile's."""
ACCELERATION_UNIT = 214.577 * 6.283185307179586 / 3600.0
"""[rad/s^2] of the profile's, 214.577 rev/min^2."""
TICKS = 4096 / 6.283185307179586
"""a radian"""
HARDWARE_ERRORS = {0: "input voltage", 2: "overheating", 3: "encoder", 4: "electrical shock", 5: "overload"}
STATUS_ERRORS = {
    1: "it could not be processed",
    2: "unknown instruction",
    3: "checksum",
    4: "value out of range",
    5: "wrong length",
    6: "value beyond the motor's limit",
    7: "no access (EEPROM while torque is on?)",
}


def hardware_errors(bits: int) -> str:
    """Names of the bits in Hardware Error Status."""
    return ", ".join(name for bit, name in HARDWARE_ERRORS.items() if bits >> bit & 1) or f"error {bits:#x}"


class Port(PortHandler):
    """The SDK's port on a monotonic clock; it gives up early, does not spin, and forgets late answers."""

    def __init__(self, name: str, timeout: float) -> None:
        super().__init__(name)
        self._extra = 1000.0 * timeout

    def setupPort(self, cflag_baud: int) -> bool:  # noqa: N802
        ready: bool = super().setupPort(cflag_baud)
        self.ser.timeout, self.ser.write_timeout = POLL, WRITE_LIMIT
        return ready

    def getCurrentTime(self) -> float:  # noqa: N802
        return time.monotonic() * 1000.0

    def setPacketTimeout(self, packet_length: int) -> None:  # noqa: N802
        self.setPacketTimeoutMillis(self.tx_time_per_byte * packet_length + self._extra)

    def clearPort(self) -> None:  # noqa: N802
        try:
            self.ser.reset_input_buffer()
        except termios.error as error:  # which is no OSError
            raise OSError(f"{self.port_name}: {error}") from error


class Handler(Protocol2PacketHandler):
    """The SDK's takes any packet of a motor for its answer, and as much of it as was asked for.

    An answer that is late has the length of an earlier question: read as a position it would be any position. What
    has another length than `size` [parameters] is skipped, but for a motor's refusal, which has none.
    """

    size = 0

    def rxPacket(self, port: Port, fast_option: bool) -> tuple[list[int], int]:  # noqa: N802
        while True:
            packet, result = super().rxPacket(port, fast_option)
            if result != COMM_SUCCESS:
                return packet, result
            size = packet[LENGTH] + 256 * packet[LENGTH + 1] - LENGTH_OF_THE_REST
            if size == self.size or (size == 0 and packet[ERROR] & ~ALERT):
                return packet, result
            if port.isPacketTimeout():
                return [], int(COMM_RX_TIMEOUT)


class SyncRead(GroupSyncRead):
    """Sorts answers by id: the SDK's own stops at the first motor that is silent, and mistakes its neighbour for it."""

    answers: dict[int, tuple[bytes, int]]
    """Id -> data and error byte, of those that answered."""

    def rxPacket(self) -> int:  # noqa: N802
        self.answers = {}
        while len(self.answers) < len(self.data_dict):
            packet, result = self.ph.rxPacket(self.port, False)
            if result == COMM_SUCCESS and packet[4] in self.data_dict:
                self.answers[packet[4]] = bytes(packet[9 : 9 + self.data_length]), packet[8]
            elif result == COMM_RX_TIMEOUT:
                return int(result)
        return int(COMM_SUCCESS)


class Bus:
    """The motors of one port. Every method raises OSError, which names motor and cause."""

    def __init__(self, name: str, baudrate: int, timeout: float) -> None:
        self._name, self._baudrate, self._timeout = name, baudrate, timeout
        self._port: Port | None = None
        self._handler = Handler()

    def open(self) -> None:
        """Open the port, anew if it is open."""
        self.close()
        port = Port(self._name, self._timeout)
        port.baudrate = self._baudrate
        try:
            if not port.openPort():
                raise OSError(f"{self._name}: baudrate {self._baudrate} is not offered by the SDK")
        except serial.SerialException as error:
            raise OSError(f"{self._name}: {error}") from error
        self._port = port

    def close(self) -> None:
        """Never raises."""
        port, self._port = self._port, None
        if port is not None and port.ser is not None:
            with contextlib.suppress(OSError):
                port.closePort()

    def _ready(self, size: int) -> Port:
        """The port, for a question whose answers have so many parameters."""
        if self._port is None:
            raise OSError(f"{self._name} is not open")
        self._port.is_using = False  # of a transfer that was cut off
        self._handler.size = size
        return self._port

    def _check(self, motor: int, what: str, result: int, error: int) -> None:
        if result != COMM_SUCCESS:
            raise OSError(f"motor {motor}: {what}: {self._handler.getTxRxResult(result)}")
        code = error & ~ALERT
        if code:
            raise OSError(f"motor {motor}: {what}: {STATUS_ERRORS.get(code, f'error {code}')}")

    def ping(self, motor: int) -> int:
        """Model number."""
        return int(self._ask(motor, "ping", 3, ATTEMPTS, lambda port: self._handler.ping(port, motor)))

    def read_block(self, motor: int, address: int, size: int, attempts: int = ATTEMPTS) -> bytes:
        """So many bytes of the control table."""
        what = f"read {size} at {address}"
        return bytes(
            self._ask(
                motor, what, size, attempts, lambda port: self._handler.readTxRx(port, motor, address, size)
            )
        )

    def read(self, motor: int, register: Register) -> int:
        """One register."""
        return register.decode(self.read_block(motor, register.address, register.size))

    def write(self, motor: int, register: Register, value: int) -> None:
        """One register; the motor has acknowledged it."""
        address, size, data = register.address, register.size, register.encode(value)
        self._ask(
            motor,
            f"write {value} to {address}",
            0,
            ATTEMPTS,
            lambda port: (None, *self._handler.writeTxRx(port, motor, address, size, data)),
        )

    def _ask(
        self,
        motor: int,
        what: str,
        size: int,
        attempts: int,
        transfer: Callable[[Port], tuple[Any, int, int]],
    ) -> Any:
        """The first of (answer of so many parameters, result, error), asked again when a packet is lost."""
        asked = 0
        while True:
            answer, result, error = transfer(self._ready(size))
            asked += 1
            if result == COMM_SUCCESS or asked == attempts:
                break
        if asked > 1 and result == COMM_SUCCESS:
            # A late answer to each time it was asked may still come, and the next question may want one as long.
            time.sleep(2 * (asked - 1) * self._timeout)
        self._check(motor, what, result, error)
        return answer

    def reboot(self, motor: int) -> None:
        """Restart a motor; it is silent for some tenths of a second, then without torque."""
        result, error = self._handler.reboot(self._ready(0), motor)
        self._check(motor, "reboot", result, error)

    def sync_read(self, motors: Iterable[int], address: int, size: int) -> dict[int, tuple[bytes, int]]:
        """Id -> bytes and error byte, of those that answered in time."""
        group = SyncRead(self._ready(size), self._handler, address, size)
        for motor in motors:
            group.addParam(motor)
        group.txRxPacket()
        return group.answers

    def sync_write(self, register: Register, values: dict[int, int]) -> None:
        """Id -> value. Motors do not acknowledge it."""
        group = GroupSyncWrite(self._ready(0), self._handler, register.address, register.size)
        for motor, value in values.items():
            group.addParam(motor, register.encode(value))
        result: Any = group.txPacket()
        if result != COMM_SUCCESS:
            raise OSError(f"{self._name}: sync write: {self._handler.getTxRxResult(result)}")
