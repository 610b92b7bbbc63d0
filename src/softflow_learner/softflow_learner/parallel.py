"""What an update asks of the processes that share it: its own rows, its own noise, sums over all processes.

Here the case of one process; `distributed` has the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softflow_learner.replay import Batch
from softflow_node.parameters import ParameterError

if TYPE_CHECKING:
    from softflow_learner.agent import Agent

DEVICES = ("cpu", "cuda")


class Alone:
    """One process, which has every row. Those that share an update override all of it."""

    def __init__(self, device: torch.device | None = None) -> None:
        """On a device of `find_device`; default: the CPU."""
        self.device = device or torch.device("cpu")

    share = 1.0
    """Own rows over all rows of the batch at work. A mean over own rows, times it, is a term of the whole mean."""

    def begin(self, agent: Agent, update: str, batch: Batch) -> Batch:
        """Own rows of the batch that this method of the agent is about to learn from."""
        del agent, update
        return batch

    def changed(self) -> None:
        """The agent has changed by other means than an update."""

    def total(self, own: Tensor) -> Tensor:
        """Sum over the processes, the same on each."""
        return own

    def means(self, own: Sequence[Tensor]) -> list[Tensor]:
        """Means over own rows -> means over all rows, the same on each process."""
        return list(own)

    def noise(self, rows: int, draw: Callable[[int], Tensor]) -> Tensor:
        """So many own rows of what `draw(all rows)` gives: noise belongs to a row, whoever works on it."""
        return draw(rows)


def find_device(name: str, index: int = 0) -> torch.device:
    """The `index`-th device of a kind. Raises ParameterError where there is none."""
    if name not in DEVICES:
        raise ParameterError(f"device is {name!r}, allowed: {', '.join(DEVICES)}")
    if name == "cpu":
        return torch.device(name)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= found:
        raise ParameterError(
            f"device is {name!r}, its number {index} is asked for, but PyTorch {torch.__version__} finds {found} here"
        )
    return torch.device(name, index)
