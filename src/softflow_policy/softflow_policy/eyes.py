"""Pictures as numbers: a small residual network for each camera, whose code joins the state in actor and critic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softflow_policy.resnet import CHANNELS, ResNetTrunk, TrunkError
from softflow_policy.spec import PolicySpec

Images = Mapping[str, Tensor]
"""Camera -> RGB pictures (B, H, W, 3) uint8, as `thumbnail` makes them."""

GROUPS = 8


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm: no statistics of a batch, so training and acting agree."""
    return nn.GroupNorm(min(GROUPS, channels), channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (arXiv 1512.03385), GroupNorm before each activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = norm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = norm(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        inner = F.silu(self.first_norm(self.first(x)))
        return F.silu(self.second_norm(self.second(inner)) + self.shortcut(x))


def spatial_softmax(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) -> where each is high, (B, 2*C): expected x, then y, in [-1, 1] (arXiv 1509.06113)."""
    height, width = maps.shape[-2:]
    weights = maps.flatten(2).softmax(-1).unflatten(-1, (height, width))
    across = torch.linspace(-1.0, 1.0, width, device=maps.device, dtype=maps.dtype)
    down = torch.linspace(-1.0, 1.0, height, device=maps.device, dtype=maps.dtype)
    return torch.cat([(weights.sum(2) * across).sum(-1), (weights.sum(3) * down).sum(-1)], dim=1)


class SmallTrunk(nn.Module):
    """A convolution and two residual blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width // 2, 3, 2, padding=1, bias=False)
        self.stem_norm = norm(width // 2)
        self.blocks = nn.Sequential(ResidualBlock(width // 2, width, 2), ResidualBlock(width, width, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] -> maps (B, width, H / 4, W / 4)."""
        maps: Tensor = self.blocks(F.silu(self.stem_norm(self.stem(2.0 * pictures - 1.0))))
        return maps


class PictureEncoder(nn.Module):
    """A camera's picture -> `features` numbers of about unit size."""

    def __init__(self, width: int, features: int, kind: str = "small") -> None:
        """`width`: channels of the small trunk."""
        super().__init__()
        self.trunk = ResNetTrunk() if kind == "resnet18" else SmallTrunk(width)
        self.head = nn.Linear(2 * (CHANNELS if kind == "resnet18" else width), features)

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB (B, H, W, 3) uint8 -> (B, F)."""
        # Channel by channel in memory: on a CPU these small convolutions are up to twice as fast so.
        pixels = pictures.permute(0, 3, 1, 2).contiguous().to(self.head.weight.dtype) / 255.0
        code = self.head(spatial_softmax(self.trunk(pixels)))
        return F.layer_norm(code, code.shape[-1:])


class Eyes(nn.Module):
    """One encoder for each camera of a spec."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.cameras = spec.camera_names
        self.encoders = nn.ModuleDict(
            {
                name: PictureEncoder(spec.image_width, spec.image_features, spec.encoder)
                for name in self.cameras
            }
        )

    def take_trunks(self, path: Path) -> None:
        """Give every camera's trunk the weights of a file, see `ResNetTrunk.take`. Raises TrunkError."""
        for encoder in self.encoders.values():
            trunk = encoder.trunk
            if not isinstance(trunk, ResNetTrunk):
                raise TrunkError("encoder_weights: is for encoder resnet18, the encoder is small")
            trunk.take(path)

    def forward(self, images: Images) -> Tensor:
        """-> (B, F * cameras), in the order of the spec."""
        return torch.cat([self.encoders[name](images[name]) for name in self.cameras], dim=-1)


def random_shift(pictures: Tensor, offsets: Tensor) -> Tensor:
    """Pictures (B, H, W, C) moved by whole pixels (B, 2), down and right; the border is repeated.

    The augmentation of DrQ (arXiv 2004.13649): the same as a random crop of the padded picture.
    """
    height, width = pictures.shape[1:3]
    rows = (torch.arange(height, device=offsets.device) - offsets[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=offsets.device) - offsets[:, 1:]).clamp(0, width - 1)
    batch = torch.arange(len(pictures), device=offsets.device)[:, None, None]
    return pictures[batch, rows[:, :, None], columns[:, None, :]]
