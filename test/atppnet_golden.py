"""Random weights of ATPPNet's published format and images for it, the same on every machine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Pixels of the answer (T, H, W) that are compared: both sides of the seam are among them.
SHOWN = (slice(None), slice(3, None, 12), [0, 1, 37, 90, 128, 171, 222, 255])

# Metres go into the first layer; cells shall grow beyond 6, where they are cut; the range shall not
# be at its ends.
_GAINS = {"input_layer.": 0.05, "encoder.": 2.2, "decoder.": 2.2, "output_layer.": 0.8}


def published_like(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A tensor for each name, of a size that neither dies nor saturates on the way."""
    state = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(i))
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(i)
        elif name.endswith("running_var"):
            state[name] = 1 + noise.abs()
        elif ".norm" in name or name.startswith("norm."):
            state[name] = 0.3 * noise + name.endswith("weight")
        elif len(shape) == 1:
            state[name] = 0.4 * noise
        else:
            # Each output of a transposed convolution has one place of the kernel.
            upwards = name.startswith("UpLayers.") and name.endswith("conv0.weight")
            inputs = shape[0] if upwards else math.prod(shape[1:])
            gain = next((g for begin, g in _GAINS.items() if name.startswith(begin)), 1.6)
            state[name] = gain / math.sqrt(inputs) * noise
    return state


def images() -> Tensor:
    """Five range images (1, 5, 64, 256) in metres, a fifth of the pixels without return: 0."""
    noise, gaps = torch.rand(2, 1, 5, 64, 256, generator=torch.Generator().manual_seed(0))
    step, row, column = (torch.arange(n, dtype=torch.float32) for n in (5, 64, 256))
    wave = torch.sin(column * (2 * math.pi / 64) + step[:, None, None] * 0.3)
    smooth = 28 + 20 * wave * torch.cos(row / 9)[:, None]
    return torch.where(gaps < 0.2, 0.0, smooth + 4 * noise)
