"""One chunk at a time, fast: the default flow's sampling as one call of C that reads the weights once.

A chunk costs some 130 calls of PyTorch otherwise, each longer than what it computes (docs/benchmarks.md, "Learner
step and chunk"). The weights are packed when a policy is loaded: a flow that is still learning has to use PyTorch.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType
from typing import TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softflow_policy.conditioners import MlpConditioner
from softflow_policy.couplings import LOG_STD_MAX, AffineCoupling
from softflow_policy.flow import ConditionalFlow

LANES, BLOCK = 16, 8 * 16
"""As in native.c: outputs are summed in vectors of LANES, BLOCK outputs at a time."""

FloatArray = NDArray[np.float32]


@lru_cache(maxsize=1)
def _compiled() -> ModuleType | None:
    """The compiled part; None where there was no compiler when the package was built, or it was one for another
    machine."""
    try:
        return importlib.import_module("softflow_policy._native")
    except ImportError:
        return None


def available(flow: nn.Module) -> TypeGuard[ConditionalFlow]:
    """Whether `NativeFlow` can stand for this actor on this machine."""
    return (
        isinstance(flow, ConditionalFlow)
        and all(isinstance(c.conditioner, MlpConditioner) for c in cast(list[AffineCoupling], flow.couplings))
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in flow.parameters())
        and _compiled() is not None
    )


class NativeFlow:
    """`ConditionalFlow.sample` for a single state, by the weights that the flow has now."""

    def __init__(self, flow: ConditionalFlow) -> None:
        """Raises ValueError where it is not `available`."""
        compiled = _compiled()
        if compiled is None or not available(flow):
            raise ValueError("this policy's sampling has no native counterpart here")
        couplings = [cast(AffineCoupling, c) for c in reversed(flow.couplings)]
        with torch.no_grad():
            weights = torch.cat(_encoder(flow) + [part for c in couplings for part in _coupling(c)])
        width, further = flow.projection.in_features, len(_hidden(couplings[0]))
        sizes = [flow.encoder[0].in_features, flow.grid.size, width, len(couplings), further]
        for coupling in couplings:
            sizes += [len(coupling.kept), *coupling.kept.tolist(), *coupling.moved.tolist()]
        bounds = couplings[0].log_scale_max, LOG_STD_MAX
        self._flow = compiled.Flow(np.array(sizes, np.int32), weights.numpy(), *bounds, *flow.grid)

    def sample(self, state: FloatArray, noise: FloatArray) -> tuple[FloatArray, FloatArray]:
        """State (1, S) normalised, noise (N, h, A) -> chunks (N, h, A), log density (N,), all float32.

        Any number of threads may call it at once. Raises ValueError for other shapes or numbers.
        """
        chunks, log_prob = np.empty(noise.shape, np.float32), np.empty(len(noise), np.float32)
        self._flow.sample(state, noise, chunks, log_prob)
        return chunks, log_prob


def _encoder(flow: ConditionalFlow) -> list[Tensor]:
    """The encoder's hidden layer; then its head and the projection behind it as one product, with the code of the
    coupling that comes first in sampling first."""
    hidden, head = (layer for layer in flow.encoder if isinstance(layer, nn.Linear))
    *own, affine = flow.code_sizes
    order = torch.cat([*torch.arange(sum(own)).split(own)[::-1], sum(own) + torch.arange(affine)])
    parts = [*own, flow.grid.size, flow.grid.size]
    projection = flow.projection.weight[order].double()
    weight = (projection @ head.weight.double()).float()
    bias = (projection @ head.bias.double() + flow.projection.bias[order]).float()
    return [*_linear(hidden), _spread(bias, parts), *_packed(weight, parts)]


def _hidden(coupling: AffineCoupling) -> list[nn.Linear]:
    """The hidden layers behind the first one."""
    layers = cast(MlpConditioner, coupling.conditioner).rest
    return [layer for layer in layers if isinstance(layer, nn.Linear)][:-1]


def _coupling(coupling: AffineCoupling) -> list[Tensor]:
    """The first layer, whose bias is the state's code, the further hidden ones, and the head."""
    conditioner, moved = cast(MlpConditioner, coupling.conditioner), len(coupling.moved)
    first, head = conditioner.first, cast(nn.Linear, conditioner.rest[-1])
    hidden = [part for layer in _hidden(coupling) for part in _linear(layer)]
    head_parts = [_spread(head.bias, [moved, moved]), *_packed(head.weight, [moved, moved])]
    return [*_packed(first.weight, [first.out_features]), *hidden, *head_parts]


# -- Weights in the order and the shape in which C reads them


def _linear(layer: nn.Linear) -> list[Tensor]:
    """Bias and weight."""
    parts = [layer.out_features]
    return [_spread(layer.bias, parts), *_packed(layer.weight, parts)]


def _packed(weight: Tensor, parts: list[int]) -> list[Tensor]:
    """Weight (outputs, inputs) in blocks of outputs, each input by input; each part begins a new vector."""
    return [block.T.flatten() for block in _spread(weight, parts).split(BLOCK)]


def _spread(rows: Tensor, parts: list[int]) -> Tensor:
    """Rows with zeros behind each part, up to a multiple of LANES."""
    padded = []
    for part in rows.split(parts):
        padded += [part, part.new_zeros(_up(len(part)) - len(part), *part.shape[1:])]
    return torch.cat(padded)


def _up(count: int) -> int:
    return -(-count // LANES) * LANES
