"""The network that says from one picture of each camera whether the task has succeeded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softflow_node.parameters import ParameterError, Validated, bounded
from softflow_node.topics import parse_cameras
from softflow_policy.eyes import PictureEncoder

Thumbnails = Mapping[str, NDArray[np.uint8]]
"""Camera -> RGB pictures (N, S, S, 3)."""

HIDDEN = 64
"""Units between the pictures' codes and the answer."""
BATCH = 256
"""Pictures that are judged at once."""


@dataclasses.dataclass(frozen=True)
class SuccessSpec(Validated):
    """Sizes of the network."""

    cameras: str = bounded("", doc="whose pictures it sees, with + between them")
    image_size: int = bounded(
        64, low=16, high=256, unit="pixels", doc="side of a picture as the network sees it"
    )
    image_width: int = bounded(32, low=16, high=512, doc="channels of the pictures' encoder")
    image_features: int = bounded(64, low=4, high=2048, doc="numbers that a picture becomes")

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            names = parse_cameras(self.cameras)
        except ValueError as error:
            raise ParameterError(f"SuccessSpec: {error}") from error
        if not names:
            raise ParameterError("SuccessSpec: cameras is '', must name at least one")
        if self.image_width % 16:
            raise ParameterError(f"SuccessSpec: image_width is {self.image_width}, must be a multiple of 16")

    @property
    def camera_names(self) -> tuple[str, ...]:
        """At least one."""
        return parse_cameras(self.cameras)


class SuccessNet(nn.Module):
    """An encoder for each camera, then two layers."""

    def __init__(self, spec: SuccessSpec) -> None:
        super().__init__()
        self.spec = spec
        encoders = {name: PictureEncoder(spec.image_width, spec.image_features) for name in spec.camera_names}
        self.encoders = nn.ModuleDict(encoders)
        codes = spec.image_features * len(encoders)
        self.head = nn.Sequential(nn.Linear(codes, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))

    def forward(self, pictures: Mapping[str, Tensor]) -> Tensor:
        """Camera -> RGB (B, S, S, 3) uint8; gives logits (B,), not calibrated."""
        codes = [self.encoders[name](pictures[name]) for name in self.spec.camera_names]
        return cast(Tensor, self.head(torch.cat(codes, dim=-1))).squeeze(-1)

    @torch.no_grad()
    def judge(self, thumbnails: Thumbnails) -> NDArray[np.float64]:
        """Logits (N,) of pictures."""
        count = len(thumbnails[self.spec.camera_names[0]])
        parts = [
            self({name: torch.from_numpy(thumbnails[name][i : i + BATCH]) for name in self.spec.camera_names})
            for i in range(0, count, BATCH)
        ]
        return torch.cat(parts).double().numpy()
