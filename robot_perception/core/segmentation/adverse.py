"""Image filters for bad light and haze, chosen for each image from its statistics.

The filters are those of DiffPrompter (Kalwar et al., "DiffPrompter: Differentiable Implicit Visual
Prompts for Semantic-Segmentation in Adverse Conditions", 2023): white balance, gamma, contrast,
sharpening and dehazing. There a network chooses their parameters; here statistics of the image do,
each with a range in which it asks for nothing. Dehazing: He, Sun and Tang, "Single Image Haze
Removal Using Dark Channel Prior" (CVPR 2009), with a guided filter. The rest is kornia's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from kornia.enhance import adjust_contrast_with_mean_subtraction, adjust_gamma
from kornia.filters import guided_blur, unsharp_mask
from torch import Tensor
from torch.nn import functional

from robot_perception.core.types import U8

# Statistics are taken, and the haze is estimated, at a longer side of about so many pixels.
_STATISTICS_SIDE = 320
# A median of the least of the three colours nearby, up to which an image is clear, and its reach.
_CLEAR, _HAZY = 0.3, 0.5
_HAZE_KEPT = 0.1
_WINDOW = 7
_LEAST_TRANSMISSION = 0.15
# Ranges in which nothing is done; an image outside is brought to their border, so that a filter
# sets in gently from frame to frame.
_CAST = math.log(1.2)
_MOST_GAIN = math.log(1.6)
_DARK, _BRIGHT = 0.18, 0.75
_SPREAD = 0.4
_MOST_CONTRAST = 3.0
# Mean absolute Laplacian as a share of the spread of the luminance.
_SHARP = 0.04


@dataclass(frozen=True)
class Filters:
    """What is done to an image, in this order; the defaults change nothing."""

    haze: float = 0.0  # share of the haze that is taken off, 0..1
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of red, green and blue
    gamma: float = 1.0
    contrast: float = 1.0  # factor about the mean
    sharpen: bool = False


@torch.inference_mode()
def improved(rgb: U8) -> U8:
    """The image (H, W, 3) after the filters it needs; `rgb` itself if it needs none."""
    return filtered(rgb)[0]


@torch.inference_mode()
def filtered(rgb: U8) -> tuple[U8, Filters]:
    """`improved`, and the filters. Each is chosen on what those before it have left."""
    image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float() / 255
    small = _small(image)
    haze = _haze(small)
    if haze:
        image = _dehazed(image, small, haze)
        small = _small(image)
    gains = _gains(small)
    if gains != (1.0, 1.0, 1.0):
        image, small = (
            (t * torch.tensor(gains).reshape(1, 3, 1, 1)).clamp(0, 1) for t in (image, small)
        )
    gamma = _gamma(small)
    if gamma != 1:
        image, small = adjust_gamma(image, gamma), adjust_gamma(small, gamma)
    contrast = _contrast(small)
    if contrast != 1:
        image = adjust_contrast_with_mean_subtraction(image, contrast)
    sharpen = _blurred(image)
    if sharpen:
        image = unsharp_mask(image, (5, 5), (1.5, 1.5)).clamp(0, 1)
    filters = Filters(haze, gains, gamma, contrast, sharpen)
    if filters == Filters():
        return rgb, filters
    return (image[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy(), filters


def _small(image: Tensor) -> Tensor:
    factor = max(1, round(max(image.shape[2:]) / _STATISTICS_SIDE))
    return functional.avg_pool2d(image, min(factor, *image.shape[2:]))


def _luminance(image: Tensor) -> Tensor:
    return (image * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)


def _dark_channel(image: Tensor) -> Tensor:
    """(1, 1, H, W) the least of the three colours in a window."""
    return -functional.max_pool2d(-image.amin(1, keepdim=True), 2 * _WINDOW + 1, 1, _WINDOW)


def _haze(small: Tensor) -> float:
    """0..1 - the part of haze kept for depth, by how bright the darkest places nearby are."""
    if min(small.shape[2:]) <= 4 * _WINDOW:  # the windows would be as large as the image
        return 0.0
    median = float(_dark_channel(small).median())
    share = min(1.0, max(0.0, (median - _CLEAR) / (_HAZY - _CLEAR)))
    return share * (1 - _HAZE_KEPT)


def _dehazed(image: Tensor, small: Tensor, share: float) -> Tensor:
    dark = _dark_channel(small)
    # The colour of the air: the mean of the haziest thousandth, at least one place.
    haziest = dark.flatten().topk(max(1, dark.numel() // 1000)).indices
    air = small.flatten(2)[0, :, haziest].mean(1).clamp(min=0.1).reshape(1, 3, 1, 1)
    rough = 1 - share * _dark_channel(small / air)
    smooth = guided_blur(_luminance(small), rough, 4 * _WINDOW + 1, 1e-3)
    size = (image.shape[2], image.shape[3])
    passed = functional.interpolate(smooth, size, mode="bilinear", align_corners=False)
    return ((image - air) / passed.clamp(_LEAST_TRANSMISSION, 1) + air).clamp(0, 1)


def _gains(small: Tensor) -> tuple[float, float, float]:
    """Of a grey world, less what a normal scene's colours may differ from grey."""
    means = small.mean((0, 2, 3)).clamp(min=1e-3)
    wanted = torch.log(means.mean() / means)
    logs = wanted.sign() * (wanted.abs() - _CAST).clamp(0, _MOST_GAIN)
    red, green, blue = torch.exp(logs).tolist()
    return red, green, blue


def _gamma(small: Tensor) -> float:
    """What brings the median of the luminance into its range."""
    median = float(_luminance(small).median().clamp(0.02, 0.98))
    if _DARK <= median <= _BRIGHT:
        return 1.0
    return math.log(min(max(median, _DARK), _BRIGHT)) / math.log(median)


def _contrast(small: Tensor) -> float:
    low, high = torch.quantile(_luminance(small).flatten(), torch.tensor([0.05, 0.95])).tolist()
    return float(max(1.0, min(_MOST_CONTRAST, _SPREAD / max(high - low, 1e-3))))


def _blurred(image: Tensor) -> bool:
    light = _luminance(image)
    if min(light.shape[2:]) < 3:
        return False
    around = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).reshape(1, 1, 3, 3)
    edges = functional.conv2d(light, around).abs().mean()
    spread = light.std()
    # An image of one colour has nothing to sharpen.
    return bool(spread > 0.01) and bool(edges < _SHARP * spread)
