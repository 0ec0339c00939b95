"""The layers of ATPPNet that see one image at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A step between two scales.
_STRIDE = (2, 4)


class WrappedConv(nn.Conv2d):
    """A 3 x 3 convolution whose columns go round; above and below there are zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=(1, 0), bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(F.pad(features, (1, 1, 0, 0), "circular"))


def down(inputs: int, outputs: int) -> nn.Sequential:
    """Features (B, inputs, H, W) to (B, outputs, H / 2, W / 4)."""
    shrink = nn.Conv2d(inputs, outputs, _STRIDE, _STRIDE, bias=False)
    return nn.Sequential(_block(WrappedConv(inputs, inputs)), _block(shrink))


class Up(nn.Module):
    """Features (B, inputs, H, W), with others like them if `skip`, to (B, outputs, 2 H, 4 W)."""

    def __init__(self, inputs: int, outputs: int, *, skip: bool) -> None:
        super().__init__()
        self.merge = _block(WrappedConv(2 * inputs, inputs)) if skip else None
        self.enlarge = _block(nn.ConvTranspose2d(inputs, inputs, _STRIDE, _STRIDE, bias=False))
        self.refine = _block(WrappedConv(inputs, outputs))

    def forward(self, features: Tensor, skip: Tensor | None) -> Tensor:
        if self.merge is not None and skip is not None:
            features = self.merge(torch.cat([features, skip], 1))
        enlarged: Tensor = self.refine(self.enlarge(features))
        return enlarged


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.LeakyReLU())
