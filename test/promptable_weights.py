"""Random weights of the official format, the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor


def official_like(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A tensor for each name: small noise, around one for the scales of norms."""
    state = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(i)) * 0.05
        is_scale = len(shape) == 1 and name.endswith("weight")
        state[name] = noise + 1 if is_scale else noise
    return state
