"""Updates that several processes share are those of one process: real torchrun, real gloo, real SIGKILL."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
import distributed_toy as shared

from softflow_learner.agent import Agent
from softflow_learner.distributed import Leader, ProcessLostError
from softflow_learner.parallel import Alone
from softflow_learner.processes import gathered
from softflow_node.parameters import ParameterError

pytestmark = pytest.mark.slow
PROGRAM = Path(shared.__file__)
BOUND = 1e-9
"""Largest difference of any weight, gradient or scalar in float64, relative where it is beyond 1."""


def torchrun(*arguments: str | Path, processes: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", str(processes), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_three_processes_of_torchrun_learn_what_one_learns(tmp_path: Path) -> None:
    """Every family and regulariser, each stage, windows that may not be imitated, rows that are no numbers."""
    names = list(shared.CASES)
    done = torchrun(PROGRAM, tmp_path, "float64", *names, processes=3)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "0.safetensors")
    with shared.numbers("float64"):
        expected = shared.everything(Alone(), names)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=BOUND, atol=BOUND, equal_nan=True, msg=name)
    last = {k.removeprefix("flow/online/"): v for k, v in found.items() if k.startswith("flow/online/")}
    for rank in (1, 2):
        worker = load_file(tmp_path / f"{rank}.safetensors")
        assert worker.keys() == last.keys()
        assert all(torch.equal(worker[name], value) for name, value in last.items()), "the copies differ"


def test_the_children_of_a_leader_do_it_in_float32() -> None:
    expected = shared.train("flow", Alone())
    with gathered(2) as world:
        found = shared.train("flow", world)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def addresses() -> set[str]:
    """With ports (hex, as the kernel has them): where this process or a child waits for connections or has one."""
    ours = {os.getpid()}
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = path.read_text().rpartition(") ")[2].split()
        if int(fields[1]) == os.getpid():
            ours.add(int(path.parent.name))
    inodes = set()
    for process in ours:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            if link.is_symlink() and (match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))):
                inodes.add(match[1])
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table.splitlines()]
    return {row[1] for row in rows if row[3] in ("0A", "01") and row[9] in inodes}


def updated(world: Alone) -> tuple[Agent, shared.Batch]:
    replay = shared.experience()
    agent, batch = shared.fresh("flow", replay, world), replay.sample(31, 1.0, np.random.default_rng(0))
    agent.critic_update(batch)
    return agent, batch


def test_no_port_is_open_to_others() -> None:
    before = addresses()
    with gathered(2) as world:
        updated(world)
        opened = addresses() - before
    assert opened, "gloo talks somehow"
    assert all(re.fullmatch(r"((0{16}FFFF0000)?0100007F|0{24}01000000):\w+", each) for each in opened), opened


def test_a_killed_process_is_named_and_ends_the_others() -> None:
    with pytest.raises(ProcessLostError, match="process 2 of 3 has ended with code -9"), gathered(3) as world:
        agent, batch = updated(world)
        assert isinstance(world, Leader)
        children = world._children
        children[1].send_signal(signal.SIGKILL)
        children[1].wait()
        agent.critic_update(batch)
    assert [child.poll() is None for child in children] == [False, False]


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ParameterError, match="processes is 0, must be at least 1"), gathered(0):
        pass
    with pytest.raises(ParameterError, match="device is 'tpu', allowed: cpu, cuda"), gathered(2, "tpu"):
        pass
    with gathered(2) as world:
        agent, batch = updated(world)
        with pytest.raises(ValueError, match="batch has 1 windows, must have at least 2"):
            agent.critic_update(shared.first_rows(batch, 1))
        agent.critic_update(batch)
