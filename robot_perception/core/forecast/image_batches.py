"""Samples as range images alone, in memory: what ATPPNet is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from robot_perception.core.forecast.atppnet import COLUMNS, ROWS, STEPS


@dataclass(frozen=True, eq=False)
class Images:
    """N samples of one size: range images `past` (N, P, H, W) and `future` (N, T, H, W) in metres,
    0 without return; `elevations` (N, H) float32 of the rows in rad; `revolution`: the columns of a
    whole one."""

    past: Tensor
    future: Tensor
    elevations: Tensor
    revolution: int

    def __len__(self) -> int:
        return len(self.past)


def load_images(paths: Sequence[Path], warped: bool) -> list[Images]:
    """The samples in `paths` by size, as float16: 1.3 MB for one of 64 x 1024.

    `warped`: the past as seen from the present. Raises ValueError for sizes and steps that ATPPNet
    cannot take.
    """
    groups: dict[tuple[int, ...], list[tuple[Tensor, ...]]] = {}
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            names = ("warped" if warped else "past", "future", "elevations_rad")
            past, future, elevations = (torch.from_numpy(arrays[name]) for name in names)
        if past.shape[1] % ROWS or past.shape[2] < COLUMNS:
            raise ValueError(
                f"ATPPNet needs beams in multiples of {ROWS}, {COLUMNS} columns or more"
            )
        if (len(past), len(future)) != (STEPS, STEPS):
            raise ValueError(f"ATPPNet needs samples of {STEPS} past scans and {STEPS} future ones")
        groups.setdefault(past.shape, []).append((past, future, elevations))
    stacked = ((torch.stack(x) for x in zip(*group, strict=True)) for group in groups.values())
    return [Images(p, f, e, p.shape[3]) for p, f, e in stacked]


def windows(
    groups: Sequence[Images], size: int, crop: int, rng: Generator, device: torch.device
) -> Iterator[Images]:
    """All samples in random order, float32 on `device`, up to `size` of one size at a time; of each
    a window of `crop` columns somewhere, mirrored half of the time."""
    parts = []
    for images in groups:
        order = rng.permutation(len(images))
        parts += [(images, order[i : i + size]) for i in range(0, len(order), size)]
    for number in rng.permutation(len(parts)):
        images, chosen = parts[number]
        width = images.revolution
        start = rng.integers(width, size=len(chosen))
        steps = np.arange(min(crop, width) // COLUMNS * COLUMNS)
        signs = np.where(rng.random(len(chosen)) < 0.5, -1, 1)
        columns = (start[:, None] + signs[:, None] * steps) % width
        yield _cut(images, chosen, columns, device)


def revolutions(groups: Sequence[Images], size: int, device: torch.device) -> Iterator[Images]:
    """All samples in order, whole, up to `size` of one size at a time."""
    for images in groups:
        steps = np.arange(images.revolution // COLUMNS * COLUMNS)
        for first in range(0, len(images), size):
            chosen = np.arange(first, min(first + size, len(images)))
            yield _cut(images, chosen, np.tile(steps, (len(chosen), 1)), device)


def _cut(images: Images, chosen: np.ndarray, columns: np.ndarray, device: torch.device) -> Images:
    """The `chosen` samples (N,), of each its own `columns` (N, W)."""
    rows = torch.from_numpy(chosen)

    def there(tensor: Tensor) -> Tensor:
        # From pinned memory the copy does not wait for what the device is at.
        return (tensor.pin_memory() if device.type == "cuda" else tensor).to(
            device, non_blocking=True
        )

    index = there(torch.from_numpy(columns))[:, None, None]

    def cut(tensor: Tensor) -> Tensor:
        whole = there(tensor[rows])
        return whole.gather(3, index.expand(*whole.shape[:3], -1)).float()

    elevations = there(images.elevations[rows])
    return Images(cut(images.past), cut(images.future), elevations, images.revolution)
