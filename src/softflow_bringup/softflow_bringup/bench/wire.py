"""A switch in user space that loses and delays frames on request; the kernel's netem is not in every kernel.

Run by path, `python -I -S wire.py SEED INTERFACE...` as root; standard library only. Every interface is the near end
of a veth pair whose far end is a host's. Lines on standard input: `LOSS DELAY`, the share of frames that is lost and
the delay [s] of the others, each way; 1 0 is a cut, which frames under way do not survive. Each is answered by a line
with the frames forwarded and lost until then.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import random
import select
import socket
import struct
import sys
import time
from array import array

ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
BROADCAST_BIT = 1
LONGEST = 65536
QUEUE = 20_000
"""Frames that may be under way; more are lost, as in a router."""


def open_port(interface: str) -> socket.socket:
    """A raw socket that sees every frame of an interface."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    port.bind((interface, 0))
    port.setblocking(False)
    return port


def compute_checksums(interface: str) -> None:
    """Have the kernel fill in checksums, which it leaves to the hardware otherwise; here is none. Raises OSError."""
    value = array("I", [ETHTOOL_STXCSUM, 0])
    request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


class Switch:
    """Ports, what was learned about addresses, and the frames under way."""

    def __init__(self, ports: list[socket.socket], seed: int) -> None:
        self.ports = ports
        self.loss, self.delay = 0.0, 0.0
        self.forwarded = self.lost = 0
        self._random = random.Random(seed)
        self._behind: dict[bytes, socket.socket] = {}
        self._under_way: list[tuple[float, int, bytes, list[socket.socket]]] = []
        self._numbers = itertools.count()

    def receive(self, port: socket.socket, now: float) -> None:
        """Take in what has arrived at a port."""
        while True:
            try:
                frame, address = port.recvfrom(LONGEST)
            except BlockingIOError:
                return
            if address[2] == PACKET_OUTGOING:
                continue
            target, source = frame[:6], frame[6:12]
            self._behind[source] = port
            if self._random.random() < self.loss or len(self._under_way) >= QUEUE:
                self.lost += 1
                continue
            known = None if target[0] & BROADCAST_BIT else self._behind.get(target)
            targets = [known] if known is not None else [p for p in self.ports if p is not port]
            heapq.heappush(self._under_way, (now + self.delay, next(self._numbers), frame, targets))

    def impair(self, loss: float, delay: float) -> None:
        """From now on."""
        self.loss, self.delay = loss, delay
        if loss >= 1.0:
            self.lost += len(self._under_way)
            self._under_way.clear()

    def send_due(self, now: float) -> float:
        """Send what has been under way long enough; returns seconds until the next frame is due."""
        while self._under_way and self._under_way[0][0] <= now:
            _, _, frame, targets = heapq.heappop(self._under_way)
            for port in targets:
                try:
                    port.send(frame)
                    self.forwarded += 1
                except OSError:  # its queue is full, or the host has gone
                    self.lost += 1
        return self._under_way[0][0] - now if self._under_way else 1.0


def main(arguments: list[str]) -> None:
    """Forward until standard input ends."""
    switch = Switch([open_port(name) for name in arguments[1:]], int(arguments[0]))
    print("ready", flush=True)
    wait = 1.0
    while True:
        readable = select.select([*switch.ports, sys.stdin], [], [], max(0.0, wait))[0]
        for port in switch.ports:
            if port in readable:
                switch.receive(port, time.monotonic())
        if sys.stdin in readable:
            line = sys.stdin.readline()
            if not line:
                return
            print(switch.forwarded, switch.lost, flush=True)
            switch.impair(*map(float, line.split()))
        wait = switch.send_due(time.monotonic())


if __name__ == "__main__":
    main(sys.argv[1:])
