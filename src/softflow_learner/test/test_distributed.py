"""Updates shared by processes are those of one process, and end, by name, with the first process that is lost."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from softflow_learner.distributed import ProcessLostError
from softflow_learner.packing import layout_of, pack, part, unpack
from softflow_learner.parallel import Alone, find_device
from softflow_learner.processes import gathered
from softflow_learner.replay import Batch
from softflow_node.parameters import ParameterError
from softflow_policy.weights import decode_weights

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "softflow_recorder" / "test"))
import distributed_toy as shared
import learner_toy as toy
from recorder_toy import Toy

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(processes: int, *program: object) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    # Behind the --, or torchrun takes --run for one of its own.
    module = program[:1] == ("-m",)
    return [*command, *(("-m",) if module else ()), "--", *map(str, program[1:] if module else program)]


# -- The same numbers

BOUNDS = {"float64": 1e-11, "float32": 1e-4}
"""Of a difference, against the largest number of a tensor, or 1e-3 where that is less."""


@pytest.mark.parametrize(
    ("dtype", "processes", "names"), [("float64", 3, tuple(shared.CASES)), ("float32", 2, ("flow",))]
)
def test_every_stage_is_that_of_one_process(
    tmp_path: Path, dtype: str, processes: int, names: tuple[str, ...]
) -> None:
    """31 windows of 3 processes, with takeovers and ends that are not imitated, by torchrun."""
    program = torchrun(processes, shared.__file__, tmp_path, dtype, *names)
    subprocess.run(program, check=True, timeout=240)
    found = load_file(tmp_path / "0.safetensors")
    with shared.numbers(dtype):
        wanted = shared.everything(Alone(), names)
    assert found.keys() == wanted.keys() and any("gradient/" in k for k in wanted)
    for name, value in wanted.items():
        scale = max(float(value.double().nan_to_num().abs().max()), 1e-3)
        torch.testing.assert_close(
            found[name], value, rtol=0.0, atol=BOUNDS[dtype] * scale, equal_nan=True, msg=name
        )
    assert found["poisoned/counts"].tolist() == [1, 1, -1, 3, 3], "all skip, the run ends, a good one goes on"
    for rank in range(1, processes):
        theirs = load_file(tmp_path / f"{rank}.safetensors")
        assert theirs and all(torch.equal(v, found[f"{names[-1]}/online/{k}"]) for k, v in theirs.items())


def test_a_batch_survives_the_way() -> None:
    whole = toy.replay().sample(32, 1.0, np.random.default_rng(0))
    some = part(whole, range(5, 16))
    again = unpack(torch.nn.functional.pad(pack(some), (0, 7)), layout_of(whole), 11)
    for field in dataclasses.fields(Batch):
        one, two = getattr(again, field.name), getattr(whole, field.name)[5:16]
        assert one.dtype == two.dtype and torch.equal(one, two)


# -- Processes


def sockets(state: str, pids: list[int]) -> list[str]:
    """Local addresses (hex, as the kernel prints them) of these processes' TCP sockets in a state."""
    own = {
        os.readlink(link)
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if os.path.lexists(link)
    }
    lines = [row.split() for f in ("tcp", "tcp6") for row in Path(f"/proc/net/{f}").read_text().splitlines()]
    return [c[1].split(":")[0] for c in lines if c[3] == state and f"socket:[{c[9]}]" in own]


def test_settings_change_the_normaliser_is_fitted_and_no_port_is_open() -> None:
    """Everything that changes a leader's agent between updates reaches the workers."""
    replay = shared.experience()
    batch = replay.sample(31, 1.0, np.random.default_rng(0))
    results = []
    for processes in (1, 2):
        with gathered(processes) as world:
            agent = shared.fresh("flow", replay, world)
            agent.critic_update(batch)
            agent.configure(dataclasses.replace(agent.config, learning_rate=1e-2, regulariser="none"))
            agent.actor_update(batch)
            agent.fit_normalizer(3.0 * replay.states() + 1.0)
            agent.critic_update(batch)
            results.append(shared.left(agent))
            if processes == 2:
                pids = [os.getpid(), *(child.pid for child in world._children)]
                listening = sockets("0A", pids)
                assert len(listening) >= 2 and set(listening) == {"0100007F"}, "127.0.0.1 only"
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-5)


def test_a_killed_worker_ends_the_next_update_by_name_and_fewer_windows_than_processes_are_refused() -> None:
    replay = shared.experience()
    batch = replay.sample(31, 1.0, np.random.default_rng(0))
    with pytest.raises(ProcessLostError, match="process 2 of 3 has ended with code -9"), gathered(3) as world:
        agent = shared.fresh("flow", replay, world)
        with pytest.raises(ValueError, match="batch has 2 windows, must have at least 3, one a process"):
            agent.critic_update(part(batch, range(2)))
        agent.critic_update(batch)
        children = list(world._children)
        os.kill(children[1].pid, signal.SIGKILL)
        while True:
            agent.critic_update(batch)
    assert all(child.poll() is not None for child in children)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ParameterError, match="device is 'cuda', its number 999 is asked for, but PyTorch"):
        find_device("cuda", 999)
    with pytest.raises(ParameterError, match="device is 'tpu', allowed: cpu, cuda"), gathered(1, "tpu"):
        pass
    with pytest.raises(ParameterError, match="processes is 0, must be at least 1"), gathered(0):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_updates_and_its_checkpoint_goes_on_on_the_cpu() -> None:
    wanted = shared.train("flow", Alone())
    found = shared.train("flow", Alone(find_device("cuda")))
    for name, value in wanted.items():
        scale = max(float(value.nan_to_num().abs().max()), 1e-3)
        torch.testing.assert_close(found[name].cpu(), value, rtol=0.0, atol=1e-3 * scale, equal_nan=True)


# -- The command


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demos")
    for i in range(3):
        Toy.make(seed=i, episode_id=f"e{i}").write(directory / str(i))
    return directory


def training(run: Path, demos: Path, updates: int) -> list[str]:
    """`softflow_learner.cli imitation` with small networks."""
    settings = {"imitation_updates": updates, "batch_size": 15, "width": 16, "couplings": 2}
    pairs = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    return ["-m", "softflow_learner.cli", "imitation", "--run", str(run), "--demos", str(demos), *pairs]


def test_the_command_gives_the_same_weights_alone_with_processes_and_under_torchrun(
    tmp_path: Path, demos: Path
) -> None:
    weights = []
    for name, command in {
        "one": [sys.executable, *training(tmp_path / "one", demos, 20)],
        "two": [sys.executable, *training(tmp_path / "two", demos, 20), "--processes", "2"],
        "run": torchrun(2, *training(tmp_path / "run", demos, 20)),
    }.items():
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
        data = (tmp_path / name / "policies" / "imitation.safetensors").read_bytes()
        weights.append(decode_weights(data)[0].state_dict())
        assert len(list((tmp_path / name / "checkpoints").iterdir())) == 1
    one, two, run = weights
    assert all(torch.equal(value, run[k]) for k, value in two.items())
    for k, value in one.items():
        torch.testing.assert_close(two[k], value, rtol=1e-3, atol=1e-5)


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Not gone, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("victim", ["worker", "leader", "interrupted", "torchrun's worker"])
def test_when_one_is_killed_all_end(tmp_path: Path, demos: Path, victim: str) -> None:
    long = training(tmp_path / "run", demos, 10**7)
    command = [sys.executable, *long, "--processes", "3"]
    command = torchrun(3, *long) if victim == "torchrun's worker" else command
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until((tmp_path / "run" / "status.json").exists)
    pids = children_of(process.pid)
    if victim == "leader":
        process.kill()
    elif victim == "interrupted":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(pids[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    until(lambda: not any(map(alive, pids)))
    wanted = {
        "worker": (2, "softflow train: process 2 of 3 has ended with code -9"),
        "leader": (-9, "process 1 of 3 has lost another one in"),
        "interrupted": (130, ""),
        "torchrun's worker": (1, "softflow train: process 0 of 3 has lost another one in"),
    }
    code, text = wanted[victim]
    assert process.returncode == code and text in errors, errors
