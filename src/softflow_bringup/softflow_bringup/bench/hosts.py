"""Hosts of their own on one machine: a network namespace and a /dev/shm each, joined by a switch. Needs root.

Fast DDS takes two processes with the same /dev/shm for neighbours, so a namespace alone is not another host.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "sleep": "coreutils"}
"""Program -> Debian package."""
SUBNET = "10.77.7"
_WIRE = str(Path(__file__).with_name("wire.py"))
_HOLD = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && exec sleep infinity"


def why_not() -> str:
    """Why there can be no hosts of their own here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = sorted(
        f"{name} (package {package})" for name, package in TOOLS.items() if not shutil.which(name)
    )
    if missing:
        return f"programs are missing: {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True)
    return f"no namespace can be made: {tried.stderr.strip()}" if tried.returncode else ""


class Namespace:
    """A network namespace with a /dev/shm of its own, for as long as a process holds it."""

    def __init__(self, name: str) -> None:
        """Make it. Raises RuntimeError."""
        self.name = name
        command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _HOLD]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            self._holder.wait()
            raise RuntimeError(f"{name}: no namespace can be made; {why_not() or 'mount or ip failed'}")

    @property
    def pid(self) -> int:
        """Of the process that holds it."""
        return self._holder.pid

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command as it is run inside."""
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", *command]

    def run(self, *command: str) -> None:
        """Run a command inside to its end. Raises CalledProcessError."""
        subprocess.run(self.inside(command), check=True, capture_output=True)

    def close(self) -> None:
        """Give it up; it goes with the last process inside."""
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()


class Host(Namespace):
    """A host on the network, and what was started there."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name)
        self.address = address
        self._started: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def start(
        self, command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command inside; its output goes into a file."""
        output.parent.mkdir(parents=True, exist_ok=True)
        file = output.open("ab")
        process = subprocess.Popen(
            self.inside(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self._started.append((process, file))
        return process

    def close(self) -> None:
        """Stop what runs, then give the namespace up."""
        for process, _ in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process, file in self._started:
            try:
                process.wait(timeout=40.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            file.close()
        super().close()


class Network:
    """Hosts by name, joined by a switch whose loss and delay can be set (wire.py)."""

    def __init__(self, names: Sequence[str], seed: int = 0) -> None:
        """Make the hosts; their addresses are 10.77.7.1, .2, ... Raises RuntimeError, CalledProcessError."""
        self._stack = ExitStack()
        self._impairment = (0.0, 0.0)
        self.hosts: dict[str, Host] = {}
        try:
            switch = Namespace("switch")
            self._stack.callback(switch.close)
            for number, name in enumerate(names, start=1):
                self.hosts[name] = self._join(switch, name, number)
            self._wire = self._connect(switch, len(names), seed)
        except BaseException:
            self._stack.close()
            raise

    def _join(self, switch: Namespace, name: str, number: int) -> Host:
        host = Host(name, f"{SUBNET}.{number}")
        self._stack.callback(host.close)
        port = f"port{number}"
        switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        switch.run("ip", "link", "set", port, "up", "promisc", "on")
        checksums = f"import sys; sys.path.insert(0, {str(Path(_WIRE).parent)!r}); import wire; "
        host.run(sys.executable, "-I", "-S", "-c", checksums + "wire.compute_checksums('eth0')")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        host.run("ip", "route", "add", "224.0.0.0/4", "dev", "eth0")
        return host

    def _connect(self, switch: Namespace, ports: int, seed: int) -> subprocess.Popen[str]:
        names = [f"port{number}" for number in range(1, ports + 1)]
        command = switch.inside([sys.executable, "-I", "-S", _WIRE, str(seed), *names])
        wire = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._stack.callback(_end, wire)
        assert wire.stdout is not None
        if wire.stdout.readline() != "ready\n":
            raise RuntimeError("the switch between the hosts does not start")
        return wire

    def impair(self, loss: float, delay: float) -> tuple[int, int]:
        """From now on lose a share of the frames and delay the others [s]; returns (forwarded, lost) so far."""
        assert self._wire.stdin is not None and self._wire.stdout is not None
        self._wire.stdin.write(f"{loss} {delay}\n")
        self._wire.stdin.flush()
        self._impairment = (loss, delay)
        forwarded, lost = map(int, self._wire.stdout.readline().split())
        return forwarded, lost

    def frames(self) -> tuple[int, int]:
        """(forwarded, lost) so far."""
        return self.impair(*self._impairment)

    def cut(self) -> tuple[int, int]:
        """Nothing passes from now on."""
        return self.impair(1.0, 0.0)

    def heal(self) -> tuple[int, int]:
        """Everything passes from now on."""
        return self.impair(0.0, 0.0)

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
