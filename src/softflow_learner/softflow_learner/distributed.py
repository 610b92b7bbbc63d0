"""Updates shared by several processes: the leader has experience, run directory and robots, workers have nothing.

For each update the leader sends every process its rows of the batch; each works out its part of the loss and of the
gradients; sums over all processes (torch.distributed: gloo on CPUs, NCCL on GPUs) give each the same step. Noise
belongs to a row, so the result is that of one process with the whole batch, up to rounding.

Not DistributedDataParallel: its hooks wait for `backward` through one module's `forward`. An update here takes the
gradients of one network by `torch.autograd.grad`, through methods of several, and needs sums over the whole batch
(weights of imitable windows, mean |Q|, finiteness) before them. One flat all_reduce does what its buckets do.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from softflow_learner.agent import Agent, TrainingDivergedError
from softflow_learner.checkpoint import decode_agent, encode_agent
from softflow_learner.packing import Layout, bytes_tensor, layout_of, pack, part, row_bytes, unpack
from softflow_learner.parallel import Alone
from softflow_learner.replay import Batch

Child = subprocess.Popen[bytes]

WORK_LIMIT = datetime.timedelta(minutes=5)
"""The longest wait inside an update, compiling included, and for processes to gather."""
IDLE_LIMIT = datetime.timedelta(days=365)
"""The longest wait for the next update: a robot may pause."""
ORDER_BYTES = 4096
"""Size of an order from the leader: JSON, padded with spaces."""


class ProcessLostError(RuntimeError):
    """A process that shares the updates is gone. The last checkpoint is good; start anew from there."""


class Shared(Alone):
    """One of several processes. `rank` 0 leads."""

    def __init__(self, rank: int, size: int, device: torch.device, meeting: Path | None = None) -> None:
        """Meets the others by a file, or where torchrun says. Raises ProcessLostError if they do not come."""
        super().__init__(device)
        self.rank, self.size = rank, size
        self.lost = False
        """Another process is gone: nothing can be shared any more."""
        self._rows = range(0)
        self._all_rows = 0
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        with self._in("the gathering"):
            store = self._meet(dist.FileStore(str(meeting), size)) if meeting else None
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WORK_LIMIT)
            # Orders have a group of their own, whose reader may wait for long.
            self._orders = dist.new_group(backend="gloo", timeout=IDLE_LIMIT)

    def _meet(self, store: dist.Store) -> dist.Store:
        """Say that this process is there."""
        store.set(f"here/{self.rank}", "")
        return store

    def total(self, own: Tensor) -> Tensor:
        """See `Alone.total`."""
        out = own.clone()
        with self._in("a sum"):
            dist.all_reduce(out)
        return out

    def means(self, own: Sequence[Tensor]) -> list[Tensor]:
        """See `Alone.means`; one sum over everything."""
        device = own[0].device
        flat = torch.cat([each.to(device).reshape(-1) for each in own])
        whole = self.total(flat * self.share).split([each.numel() for each in own])
        return [mean.view_as(each) for mean, each in zip(whole, own, strict=True)]

    def noise(self, rows: int, draw: Callable[[int], Tensor]) -> Tensor:
        """See `Alone.noise`: every process draws all of it, and all generators stay in step."""
        times = rows // len(self._rows)  # Several samples of a row are next to each other.
        return draw(times * self._all_rows)[times * self._rows.start : times * self._rows.stop]

    def take(self, rows: int) -> None:
        """Own rows of the next batch: as many as others have, or one more or less."""
        self._rows, self._all_rows = self._rows_of(self.rank, rows), rows
        self.share = len(self._rows) / rows

    def _rows_of(self, rank: int, rows: int) -> range:
        return range(rank * rows // self.size, (rank + 1) * rows // self.size)

    def _send(self, order: dict[str, Any]) -> None:
        text = json.dumps(order).encode()
        if len(text) > ORDER_BYTES:
            raise ValueError(f"order of {len(text)} bytes, must be at most {ORDER_BYTES}: {text[:80]!r}...")
        with self._in("an order"):
            dist.broadcast(bytes_tensor(text.ljust(ORDER_BYTES)), 0, group=self._orders)

    def _receive(self) -> dict[str, Any]:
        buffer = torch.empty(ORDER_BYTES, dtype=torch.uint8)
        with self._in("an order"):
            dist.broadcast(buffer, 0, group=self._orders)
        return json.loads(buffer.numpy().tobytes())

    @contextlib.contextmanager
    def _in(self, what: str) -> Iterator[None]:
        """torch.distributed's errors, named."""
        try:
            yield
        except ProcessLostError:
            raise
        except RuntimeError as error:
            self.lost = True
            raise ProcessLostError(self._why(what, error)) from error

    def _why(self, what: str, error: Exception) -> str:
        reason = str(error).partition("\n")[0].partition(". ")[0]  # What follows is advice.
        return f"process {self.rank} of {self.size} has lost another one in {what}: {reason}"


class Leader(Shared):
    """Rank 0: its updates are everyone's."""

    def __init__(
        self,
        size: int,
        device: torch.device,
        meeting: Path | None = None,
        children: Sequence[Child] = (),
    ) -> None:
        self._children = children
        self._agent: Agent | None = None
        self._config: object = None
        self._batch: Batch | None = None
        self._own: Batch | None = None
        super().__init__(0, size, device, meeting)

    def _meet(self, store: dist.Store) -> dist.Store:
        """A child that dies before it comes is not waited for."""
        while not store.check([f"here/{rank}" for rank in range(1, self.size)]):
            self._check_children()
            time.sleep(0.05)
        return store

    def begin(self, agent: Agent, update: str, batch: Batch) -> Batch:
        """See `Alone.begin`. Raises ValueError for fewer rows than processes."""
        if len(batch) < self.size:
            raise ValueError(f"batch has {len(batch)} windows, must have at least {self.size}, one a process")
        self._check_children()
        if agent is not self._agent or agent.config is not self._config:
            self._send_agent(agent)
        again = batch is self._batch
        order = {"update": update, "step": agent.gradient_step, "beta_scale": agent.beta_scale}
        self._send({**order, "rows": len(batch), "layout": None if again else layout_of(batch)})
        if not again:
            self.take(len(batch))
            self._batch, self._own = batch, part(batch, self._rows)
            self._send_rows(batch)
        assert self._own is not None
        return self._own

    def changed(self) -> None:
        """See `Alone.changed`."""
        self._agent = None

    def end(self) -> None:
        """Let the workers go, if they are still there."""
        if not self.lost:
            self._send({"end": True})

    def _send_agent(self, agent: Agent) -> None:
        """A copy for each worker, where there is none yet or where settings have changed."""
        parts = encode_agent(agent)
        self._send({"agent": [len(part) for part in parts]})
        with self._in("the agent's copy"):
            dist.broadcast(bytes_tensor(b"".join(parts)), 0)
        self._agent, self._config = agent, agent.config

    def _send_rows(self, batch: Batch) -> None:
        packed = [pack(part(batch, self._rows_of(rank, len(batch)))) for rank in range(self.size)]
        longest = max(map(len, packed))
        with self._in("sending rows"):
            dist.scatter(
                torch.empty(longest, dtype=torch.uint8),
                [torch.nn.functional.pad(each, (0, longest - len(each))) for each in packed],
            )

    def _check_children(self) -> None:
        if dead := self._dead():
            self.lost = True
            raise ProcessLostError(dead)

    def _dead(self) -> str:
        """A sentence about the children that have ended; empty if all live."""
        ended = [(rank, c.poll()) for rank, c in enumerate(self._children, 1) if c.poll() is not None]
        parts = [f"process {rank} of {self.size} has ended with code {code}" for rank, code in ended]
        return "; ".join(parts)

    def _why(self, what: str, error: Exception) -> str:
        until = time.monotonic() + 1.0
        while self._children and not self._dead() and time.monotonic() < until:
            time.sleep(0.02)
        return self._dead() or super()._why(what, error)


class Worker(Shared):
    """Every other rank: does what the leader says, until the end."""

    def serve(self) -> Agent | None:
        """Returns the last agent that it had a copy of. Raises ProcessLostError when another process is gone."""
        agent, batch = None, None
        while "end" not in (order := self._receive()):
            if "agent" in order:
                agent = self._take_agent(order["agent"])
                continue
            assert agent is not None
            if agent.gradient_step != order["step"]:
                raise RuntimeError(
                    f"process {self.rank} is at gradient step {agent.gradient_step}, must be at {order['step']}"
                )
            if order["layout"] is not None:
                batch = self._take_rows(order["rows"], order["layout"])
            agent.beta_scale = order["beta_scale"]
            with contextlib.suppress(TrainingDivergedError):  # The leader says so.
                getattr(agent, order["update"])(batch)
        return agent

    def _take_agent(self, sizes: list[int]) -> Agent:
        data = torch.empty(sum(sizes), dtype=torch.uint8)
        with self._in("the agent's copy"):
            dist.broadcast(data, 0)
        whole = data.numpy().tobytes()
        agent, _ = decode_agent(whole[: sizes[0]], whole[sizes[0] :])
        agent.join(self)
        return agent

    def _take_rows(self, rows: int, layout: Layout) -> Batch:
        self.take(rows)
        longest = max(len(self._rows_of(rank, rows)) for rank in range(self.size))
        data = torch.empty(longest * sum(row_bytes(*each) for each in layout.values()), dtype=torch.uint8)
        with self._in("receiving rows"):
            dist.scatter(data)
        return unpack(data, layout, len(self._rows))
