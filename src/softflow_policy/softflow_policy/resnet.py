"""The first half of ResNet-18 with torchvision's names and numbers, kept as somebody else has trained it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 128
"""Of what the trunk gives, at an eighth of the picture's size."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in [0, 1], red first, as torchvision's checkpoints expect them."""


class TrunkError(ValueError):
    """A checkpoint that does not fit; the text names file, tensor, its shape and the one it must have."""


class BasicBlock(nn.Module):
    """arXiv 1512.03385, figure 2; the attributes are named as torchvision's."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(inner + shortcut)


class ResNetTrunk(nn.Module):
    """conv1 to layer2. Frozen: no gradients, and the statistics of its BatchNorms are those of its training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, CHANNELS, 2), BasicBlock(CHANNELS, CHANNELS, 1))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ResNetTrunk:
        """Stays as it is."""
        del mode
        return super().train(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] -> maps (B, CHANNELS, H / 8, W / 8)."""
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        x = F.relu(self.bn1(self.conv1((pictures - mean) / std)))
        maps: Tensor = self.layer2(self.layer1(F.max_pool2d(x, 3, 2, 1)))
        return maps

    def take(self, path: Path) -> None:
        """Weights of a safetensors file with torchvision's names; what belongs to later layers is passed over.

        Raises TrunkError for a file that is none, a tensor that is missing, of another shape, or not finite.
        """
        try:
            found = load(path.read_bytes())
        except (OSError, SafetensorError, ValueError) as error:
            raise TrunkError(f"encoder_weights: {str(path)!r} is no safetensors file: {error}") from error
        for name, own in self.state_dict().items():
            if name not in found:
                raise TrunkError(
                    f"encoder_weights: {str(path)!r} has no tensor {name!r}, as torchvision's resnet18 has"
                )
            if found[name].shape != own.shape:
                shape = tuple(found[name].shape)
                raise TrunkError(
                    f"encoder_weights: {name!r} of {str(path)!r} is {shape}, must be {tuple(own.shape)}"
                )
            if not torch.isfinite(found[name]).all():
                raise TrunkError(
                    f"encoder_weights: {name!r} of {str(path)!r} has numbers that are not finite"
                )
        self.load_state_dict({name: found[name].to(own.dtype) for name, own in self.state_dict().items()})
