"""Trains the network on balanced batches of pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from softflow_learner.success.data import Pictures, PicturesError
from softflow_node.parameters import Validated, bounded
from softflow_policy.eyes import random_shift
from softflow_policy.success.model import SuccessNet, SuccessSpec

SHIFT = 4 / 84
"""Of the picture's side: the pad of DrQ (arXiv 2004.13649, section 4) against its 84 pixels."""
Progress = Callable[[int, int, float], None]
"""(update, of how many, loss)"""


@dataclasses.dataclass(frozen=True)
class TrainSettings(Validated):
    """How it is trained."""

    updates: int = bounded(500, low=1, high=1_000_000)
    batch: int = bounded(64, low=2, high=4096, unit="pictures", doc="half of them successes")
    rate: float = bounded(1e-3, low=1e-6, high=1.0, doc="of AdamW; falls to zero along a cosine")
    weight_decay: float = bounded(0.01, low=0.0, high=1.0)
    seed: int = bounded(0, low=0)


def train(
    spec: SuccessSpec, pictures: Pictures, settings: TrainSettings, progress: Progress = lambda *_: None
) -> SuccessNet:
    """A trained network, in eval mode. The same arguments give the same weights on one thread.

    Raises:
        PicturesError: the pictures show no success, or nothing else; or the loss is not finite.
    """
    rows = [np.flatnonzero(pictures.truth == kind) for kind in (True, False)]
    if not all(map(len, rows)):
        raise PicturesError(
            f"bags: {len(rows[0])} pictures of successes and {len(rows[1])} others, must have at least one of each"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = SuccessNet(spec)
    rng = np.random.default_rng(settings.seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.updates)
    half = settings.batch // 2
    truth = torch.cat([torch.ones(half), torch.zeros(half)])
    for update in range(1, settings.updates + 1):
        chosen = np.concatenate([rng.choice(kind, half) for kind in rows])
        loss = F.binary_cross_entropy_with_logits(net(_batch(pictures, chosen, rng)), truth)
        if not math.isfinite(loss.item()):
            raise PicturesError(f"update {update}: loss is {loss.item()}, must be finite")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(update, settings.updates, loss.item())
    return net.eval().requires_grad_(False)


def _batch(pictures: Pictures, chosen: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    """Pictures of each camera, each moved by a few pixels."""
    found = {}
    for camera, all_of_it in pictures.thumbnails.items():
        limit = round(SHIFT * all_of_it.shape[1])
        offsets = torch.from_numpy(rng.integers(-limit, limit + 1, (len(chosen), 2)))
        found[camera] = random_shift(torch.from_numpy(all_of_it[chosen]), offsets)
    return found
