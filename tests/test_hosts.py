"""Hosts of their own: they reach each other, a cut is a cut, and nothing of them is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from softflow_bringup.bench import hosts

pytestmark = pytest.mark.skipif(bool(hosts.why_not()), reason=hosts.why_not() or "-")

LISTEN = (
    "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5000)); "
    "print('up', flush=True)\n"
    "while True: d = s.recv(65536); print(len(d), flush=True)"
)
SEND = (
    "import socket, sys, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "for _ in range(int(sys.argv[3])): s.sendto(b'x' * int(sys.argv[2]), (sys.argv[1], 5000)); time.sleep(0.002)"
)


def until(condition: object, seconds: float = 20.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "never"
        time.sleep(0.05)


def test_frames_pass_are_lost_and_pass_again(tmp_path: Path) -> None:
    with hosts.Network(["a", "b", "c"]) as network:
        a, b = network.hosts["a"], network.hosts["b"]
        heard = tmp_path / "heard"
        b.start([sys.executable, "-I", "-u", "-c", LISTEN], heard)
        until(lambda: heard.exists() and heard.read_text().startswith("up"))

        def send(size: int, count: int) -> None:
            a.run(sys.executable, "-I", "-c", SEND, b.address, str(size), str(count))

        send(100, 1)
        until(lambda: heard.read_text().split()[1:] == ["100"])
        send(40_000, 1)  # in fragments
        until(lambda: heard.read_text().split()[1:] == ["100", "40000"])
        network.cut()
        send(7, 50)
        network.impair(0.3, 0.05)
        send(8, 200)
        network.heal()
        send(9, 1)
        until(lambda: "9" in heard.read_text().split())
        words = heard.read_text().split()
        assert words.count("7") == 0
        assert 80 <= words.count("8") <= 190


def test_what_is_under_way_when_the_link_is_cut_is_lost() -> None:
    with hosts.Network(["a", "b"]) as network:
        a, b = network.hosts["a"], network.hosts["b"]
        network.impair(0.0, 600.0)
        a.run(sys.executable, "-I", "-c", SEND, b.address, "100", "20")
        forwarded, lost = network.cut()
        now = network.frames()
        assert now[0] == forwarded
        assert now[1] > lost


def test_a_host_has_a_shared_memory_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    before = {p.name for p in Path("/dev/shm").iterdir()}
    with hosts.Network(["a", "b"]) as network:
        a, b = network.hosts.values()
        pids = [a.pid, b.pid]
        a.run("touch", "/dev/shm/softflow_test_mark")
        seen = subprocess.run(b.inside(["ls", "/dev/shm"]), capture_output=True, text=True, check=True).stdout
        assert seen == ""
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "softflow_test_mark" not in {p.name for p in Path("/dev/shm").iterdir()} - before
