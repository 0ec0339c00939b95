"""What moves, as `core.forecast.flow` finds it: the same steps and constants, on tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from robot_perception.core.forecast import flow
from robot_perception.core.forecast.tensors.projection import (
    SPARE,
    View,
    inside_or_spare,
    nearest,
)

CELLS = int(2 * flow.REACH_M / flow.CELL_M)
_SCORE_CELLS = int(2 * flow.REACH_M / flow.SCORE_CELL_M)
# The steps of OpenCV's distance transform with a mask of 3 x 3, straight and diagonal.
_STRAIGHT, _DIAGONAL = 0.955, 1.3693
# Distances looked up at once, at most.
_AT_ONCE = 1 << 23


def cell_of(points: Tensor, size_m: float, cells: int) -> tuple[Tensor, Tensor]:
    """The cell (..., N) of points (..., 3, N) in the ground plan, and whether they are in reach."""
    a = torch.floor((points[..., 0, :] + flow.REACH_M) / size_m)
    b = torch.floor((points[..., 1, :] + flow.REACH_M) / size_m)
    inside = (a >= 0) & (a < cells) & (b >= 0) & (b < cells)
    index = (a * cells + b).long()
    return inside_or_spare(index, inside, cells * cells), inside


def standing(points: Tensor) -> tuple[Tensor, Tensor]:
    """Which points (3, N) stand above the ground (N,), and their cell (N,) among CELLS x CELLS."""
    cells = int(2 * flow.REACH_M / flow.GROUND_CELL_M)
    index, inside = cell_of(points, flow.GROUND_CELL_M, cells)
    lowest = nearest(points[2], index, cells * cells)
    plan = lowest[: cells * cells].reshape(1, cells, cells)
    ground = -F.max_pool2d(-plan, 5, 1, 2)
    height = points[2] - ground.reshape(-1)[index.clamp(max=cells * cells - 1)]
    stands = inside & (height > flow.ABOVE_GROUND_M) & (height < flow.HIGHEST_M)
    place, _ = cell_of(points, flow.CELL_M, CELLS)
    return stands, inside_or_spare(place, stands, CELLS * CELLS)


def was_free(past: View, images: Tensor, columns: int) -> Tensor:
    """Which points (N,) are where a past scan looked through, by how they look from there (L, N)
    and the range images (L, H * W + SPARE)."""
    size = images.shape[-1] - SPARE
    plans = images[:, :size].reshape(len(images), -1, columns)
    eroded = -F.max_pool2d(-plans[:, None], 3, 1, 1).reshape(len(images), size)
    beyond = eroded.gather(1, past.pixel.clamp(max=size - 1))
    gap = torch.clamp(float(flow.FREE_SHARE) * past.range, min=float(flow.FREE_M))
    free = past.inside & (beyond > past.range + gap) & torch.isfinite(beyond)
    return free.any(0)


def counted(place: Tensor, which: Tensor) -> Tensor:
    """How many points (N,) of `which` (M, N) are in each cell: (M, CELLS * CELLS) int32."""
    grid = torch.zeros(len(which), CELLS * CELLS + SPARE, dtype=torch.int32, device=place.device)
    grid.scatter_add_(1, place.expand(len(which), -1), which.to(torch.int32))
    return grid[:, : CELLS * CELLS]


def moving_clusters(
    stand: NDArray[np.int32], free: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """On the CPU: the name (CELLS * CELLS,) from 1 of the cluster in each cell that may move, 0
    elsewhere, and the sizes (K,); from how many points of a cell stand, and are in free space."""
    occupied = (stand > 0).astype(np.uint8).reshape(CELLS, CELLS)
    kept, image = flow.connected(occupied)
    name = kept[image.reshape(-1)]
    somewhere = np.flatnonzero(occupied)
    own = name[somewhere]
    size = np.bincount(own, stand[somewhere], len(kept)).astype(np.intp)
    moving = np.bincount(own, free[somewhere], len(kept)).astype(np.intp)
    enough = flow.may_move(size, moving)
    again = np.zeros(len(kept), np.int32)
    again[enough] = np.arange(1, enough.sum() + 1)
    return again[name], size[enough]


def distance_maps(points: Tensor, stands: Tensor) -> Tensor:
    """Distance in m (L, S, S) from each cell of the ground plan to what `stands` (L, N) there of
    the past points (L, 3, N), which are in the present frame; capped."""
    cells = _SCORE_CELLS
    index, _ = cell_of(points, flow.SCORE_CELL_M, cells)
    cap = float(flow.CAP_M) / flow.SCORE_CELL_M
    far = torch.where(stands, 0.0, cap)
    grid = far.new_full((len(points), cells * cells + SPARE), cap)
    grid.scatter_reduce_(1, index, far, "amin")
    distance = -grid[:, : cells * cells].reshape(len(points), 1, cells, cells)
    for _ in range(int(cap)):
        beside = torch.maximum(
            F.max_pool2d(distance, (3, 1), 1, (1, 0)), F.max_pool2d(distance, (1, 3), 1, (0, 1))
        )
        oblique = F.max_pool2d(distance, 3, 1, 1) - _DIAGONAL
        distance = torch.maximum(distance, torch.maximum(beside - _STRAIGHT, oblique))
    return -distance[:, 0] * flow.SCORE_CELL_M


def velocities(
    points: Tensor, cluster: Tensor, sizes: NDArray[np.intp], maps: Tensor, ages: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Velocity (3, N) in m/s of points (3, N), 0 where they rest, and which of them (N,) move.

    `cluster` (N,): 0, or the name of a cluster that may move, of `sizes` (K,) known to the host;
    `maps` (L, S, S) and ages in s of the past scans.
    """
    order = torch.sort(cluster, stable=True).indices
    start = len(cluster) - int(sizes.sum()) + np.cumsum(sizes) - sizes
    # Every step-th member, in their order.
    step = np.maximum(1, sizes // flow.SAMPLE)
    turn = np.arange(int(np.ceil(sizes / step).max()))
    valid = turn * step[:, None] < sizes[:, None]
    place = np.where(valid, start[:, None] + turn * step[:, None], start[:, None])
    device = points.device
    sample = points[:2, order[torch.from_numpy(place).to(device)]]
    used = torch.from_numpy(valid).to(device)
    chunk = max(1, _AT_ONCE // (valid.shape[1] * len(flow.offsets()[0])))
    parts = [
        _search(sample[:, k : k + chunk], used[k : k + chunk], maps, ages)
        for k in range(0, len(sizes), chunk)
    ]
    best = torch.cat([part[0] for part in parts])
    moves = torch.cat([part[1] for part in parts])
    # By name, of which 0 is none; and with no vertical speed.
    by_name = F.pad(torch.where(moves[:, None], best, 0.0), (0, 1, 1, 0))
    return by_name[cluster].T, F.pad(moves, (1, 0))[cluster]


def _search(
    sample: Tensor, used: Tensor, maps: Tensor, ages: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The best velocity (K, 2) of each cluster, and whether (K,) it moves, from samples (2, K, S)
    of which some are `used` (K, S)."""
    count = (used.sum(1) * len(ages)).to(sample.dtype)

    def cost(velocity: Tensor) -> Tensor:
        """Of velocities (K, G, 2): (K, G)."""
        total = velocity.new_zeros(velocity.shape[:2])
        for k, age in enumerate(ages):
            shift = flow.REACH_M - velocity * age
            a = ((sample[0][:, None] + shift[..., :1]) / flow.SCORE_CELL_M).int()
            b = ((sample[1][:, None] + shift[..., 1:]) / flow.SCORE_CELL_M).int()
            inside = (a >= 0) & (a < _SCORE_CELLS) & (b >= 0) & (b < _SCORE_CELLS)
            at = torch.where(inside, a * _SCORE_CELLS + b, 0)
            found = torch.where(inside, maps[k].reshape(-1)[at], float(flow.CAP_M))
            total += (found * used[:, None]).sum(2)
        speed = torch.linalg.vector_norm(velocity, dim=2)
        costs: Tensor = total / count[:, None] + float(flow.PER_MPS) * speed
        return costs

    best = sample.new_zeros(sample.shape[1], 2)
    still = cost(best[:, None])[:, 0]
    lowest = still
    for offsets in flow.offsets():
        grid = best[:, None] + torch.from_numpy(offsets).to(sample.device)
        lowest, index = cost(grid).min(1)
        best = grid[torch.arange(len(grid), device=grid.device), index]
    speed = torch.linalg.vector_norm(best, dim=1)
    return best, (still - lowest > flow.MIN_GAIN_M) & (speed > flow.MIN_SPEED_MPS)
