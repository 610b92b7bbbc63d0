"""Packets of Dynamixel Protocol 2.0: header, byte stuffing, CRC-16. https://emanual.robotis.com/docs/en/dxl/protocol2/"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HEADER = b"\xff\xff\xfd\x00"
BROADCAST = 0xFE
PING, READ, WRITE, REBOOT, STATUS = 0x01, 0x02, 0x03, 0x08, 0x55
SYNC_READ, SYNC_WRITE = 0x82, 0x83
MOST = 4096
"""Bytes of a packet; a longer length is noise."""


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
        table.append(crc)
    return tuple(table)


_TABLE = _crc_table()


def crc16(data: bytes) -> int:
    """CRC-16 with polynomial 0x8005, beginning with 0."""
    crc = 0
    for byte in data:
        crc = (crc << 8 ^ _TABLE[crc >> 8 ^ byte]) & 0xFFFF
    return crc


def stuff(body: bytes) -> bytes:
    """FF FF FD in a body would look like a header: an FD is put after it."""
    return body.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")


def unstuff(body: bytes) -> bytes:
    return body.replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")


@dataclass(frozen=True)
class Packet:
    """An instruction, or a status, whose first parameter is then the error byte."""

    id: int
    instruction: int
    parameters: bytes = b""

    def encode(self) -> bytes:
        body = stuff(bytes([self.instruction]) + self.parameters)
        packet = HEADER + bytes([self.id]) + (len(body) + 2).to_bytes(2, "little") + body
        return packet + crc16(packet).to_bytes(2, "little")


class Decoder:
    """Finds packets in a stream; what is not one is skipped and counted."""

    def __init__(self) -> None:
        self._buffer = b""
        self.corrupt = 0
        """Packets with a wrong checksum."""

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Packets that are complete with these bytes."""
        self._buffer += data
        while True:
            start = self._buffer.find(HEADER)
            if start < 0:
                self._buffer = self._buffer[-3:]
                return
            self._buffer = self._buffer[start:]
            if len(self._buffer) < 7:
                return
            length = int.from_bytes(self._buffer[5:7], "little")
            if not 3 <= length <= MOST:
                self._buffer = self._buffer[4:]
                continue
            if len(self._buffer) < 7 + length:
                return
            packet, rest = self._buffer[: 7 + length], self._buffer[7 + length :]
            if crc16(packet[:-2]) != int.from_bytes(packet[-2:], "little"):
                self.corrupt += 1
                self._buffer = self._buffer[4:]
                continue
            self._buffer = rest
            body = unstuff(packet[7:-2])
            yield Packet(packet[4], body[0], body[1:])
