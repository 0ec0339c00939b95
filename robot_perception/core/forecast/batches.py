"""Samples as tensors: windows of the revolution, turned and mirrored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from robot_perception.core.forecast.dataset import Sample, load_sample
from robot_perception.core.forecast.features import MIRRORED
from robot_perception.core.forecast.selector import COLUMNS


@dataclass(frozen=True, eq=False)
class Batch:
    """`image` (B, C, H, W) float32, and the points of each sample as tensors, named as there."""

    image: Tensor
    points: list[dict[str, Tensor]]


def batches(paths: Sequence[Path], size: int, crop: int, rng: Generator) -> Iterator[Batch]:
    """All samples in random order, windows of `crop` columns of them, `size` at a time."""
    order = rng.permutation(len(paths))
    for first in range(0, len(order), size):
        group = [_augmented(load_sample(paths[i]), crop, rng) for i in order[first : first + size]]
        # A batch holds one number of beams.
        for height in sorted({s.image.shape[1] for s in group}):
            yield batch_of([s for s in group if s.image.shape[1] == height])


def batch_of(group: Sequence[Sample]) -> Batch:
    """Samples of one image size."""
    image = torch.from_numpy(np.stack([s.image for s in group]).astype(np.float32))
    return Batch(image, [_tensors(s) for s in group])


_NUMBERS = {
    "pixel": torch.int64, "near_pixel": torch.int64, "gap": torch.float32, "weight": torch.float32,
    "near_gap": torch.float32, "near_kind": torch.int64,
}  # fmt: skip
_FLAGS = ("memory", "moving", "visible", "near_visible", "near_moving")


def _tensors(sample: Sample) -> dict[str, Tensor]:
    numbers = {n: torch.from_numpy(getattr(sample, n)).to(kind) for n, kind in _NUMBERS.items()}
    return {**numbers, **{name: torch.from_numpy(getattr(sample, name)) for name in _FLAGS}}


def _augmented(sample: Sample, crop: int, rng: Generator) -> Sample:
    """A window of the revolution, mirrored half of the time."""
    _, _, width = sample.image.shape
    crop = min(crop, width) // COLUMNS * COLUMNS
    start, mirror = int(rng.integers(width)), bool(rng.random() < 0.5)
    image = np.roll(sample.image, -start, axis=2)[:, :, :crop]
    if mirror:
        image = image[:, :, ::-1].copy()
        image[list(MIRRORED)] *= -1

    def moved(pixel: NDArray[np.int32]) -> NDArray[np.int32]:
        row, column = np.divmod(pixel, width)
        column = (column - start) % width
        inside = column < crop
        column = crop - 1 - column if mirror else column
        return np.where(inside, row * crop + column, -1)

    pixel = moved(sample.pixel)
    kept = pixel >= 0
    return replace(
        sample,
        image=image,
        pixel=pixel[kept],
        memory=sample.memory[kept],
        moving=sample.moving[kept],
        weight=sample.weight[kept],
        visible=sample.visible[:, kept],
        gap=sample.gap[:, kept],
        near_pixel=moved(sample.near_pixel),
    )
