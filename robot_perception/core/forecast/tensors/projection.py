"""Spherical projection of points on a device, as `core.range_image` has it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robot_perception.core.range_image import BEHIND_M, BEHIND_SHARE, SensorModel

# What falls outside of a grid goes into one of these cells after it: atomic operations on a single
# one would wait for one another.
SPARE = 4096


@dataclass(frozen=True, eq=False)
class View:
    """Points as seen from somewhere: the `range` (..., N) in m, the `pixel` (..., N) int64 row by
    row, or beyond the image, and whether `inside` (..., N)."""

    range: Tensor
    pixel: Tensor
    inside: Tensor


class Lens:
    """A sensor model on a device. One that is alike in size and limits can take its place: the
    tensors stay the same, and with them what was recorded."""

    def __init__(self, model: SensorModel, device: torch.device) -> None:
        self.rows, self.columns = model.rows, model.columns
        self.size = model.rows * model.columns
        self.limits_m = (model.min_range_m, model.max_range_m)
        self.elevation = torch.empty(model.rows, device=device)
        self._slopes = torch.empty(model.rows + 1, device=device)
        self.take(model)

    def fits(self, model: SensorModel) -> bool:
        """Whether `model` can take the place."""
        size, limits = (model.rows, model.columns), (model.min_range_m, model.max_range_m)
        return size == (self.rows, self.columns) and limits == self.limits_m

    def take(self, model: SensorModel) -> None:
        """Be `model`, which fits, from now on."""
        self.elevation.copy_(torch.from_numpy(model.elevations_rad.astype(np.float32)))
        self._slopes.copy_(torch.from_numpy(model.slopes[0]))

    def halved(self) -> Lens:
        """The same sensor with half of the columns, now and when it takes another model."""
        half = copy.copy(self)
        half.columns, half.size = self.columns // 2, self.size // 2
        return half

    def look(self, points: Tensor) -> View:
        """Points (..., 3, N) in the frame of the sensor."""
        x, y, z = points.unbind(-2)
        flat2 = x * x + y * y
        reach = torch.sqrt(flat2 + z * z)
        slope = z / torch.sqrt(flat2)
        inside = (reach >= self.limits_m[0]) & (reach <= self.limits_m[1])
        inside &= (slope > self._slopes[0]) & (slope <= self._slopes[-1])
        above = torch.bucketize(slope, self._slopes)
        azimuth = torch.atan2(y, x)
        column = ((math.pi - azimuth) * (self.columns / (2 * math.pi))).long()
        column = column.clamp_(max=self.columns - 1)
        pixel = (self.rows - above) * self.columns + column
        return View(reach, inside_or_spare(pixel, inside, self.size), inside)


def moved(points: Tensor, matrix: Tensor) -> Tensor:
    """Points (3, N) or (B, 3, N) under rigid transforms (B, 4, 4): (B, 3, N)."""
    return torch.matmul(matrix[:, :3, :3], points) + matrix[:, :3, 3:]


def inside_or_spare(index: Tensor, inside: Tensor, size: int) -> Tensor:
    """`index` (..., N) where it is `inside` a grid of `size` cells, else one of the spare cells."""
    count = index.shape[-1]
    spare = torch.arange(size, size + count, device=index.device)
    return torch.where(inside, index, (spare - size) % SPARE + size)


def nearest(values: Tensor, index: Tensor, size: int) -> Tensor:
    """The least of values (..., N) in each of `size` cells: (..., size + SPARE), infinite where
    there is none."""
    grid = values.new_full((*values.shape[:-1], size + SPARE), math.inf)
    return grid.scatter_reduce_(-1, index, values, "amin")


def first(which: Tensor, index: Tensor, size: int) -> Tensor:
    """The lowest n with `which` (N,) in each of `size` cells, by the cell `index` (N,) of each; N
    where there is none."""
    count = len(index)
    number = torch.arange(count, device=index.device, dtype=torch.int32)
    grid = number.new_full((size + SPARE,), count)
    return grid.scatter_reduce_(0, inside_or_spare(index, which, size), number, "amin")[:size]


def is_behind(ranges: Tensor, front: Tensor) -> Tensor:
    """As in `core.range_image`; False where `front` is infinite."""
    return ranges - front > torch.clamp(float(BEHIND_SHARE) * front, min=float(BEHIND_M))


def around(image: Tensor, reach: int) -> Tensor:
    """The least (..., H, W) within `reach` columns to both sides; the columns go round."""
    least = image
    for shift in range(1, reach + 1):
        for way in (shift, -shift):
            least = torch.minimum(least, torch.roll(image, way, -1))
    return least
