"""Things that move: which points of a scan, and how fast, by clusters of constant velocity.

A point moves if an earlier scan looked through the place where it is now (free-space violation).
Clusters with enough such points get the horizontal velocity that lays them best onto the earlier
scans, all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label, minimum_filter

from robot_perception.core.range_image import SensorModel, row_of
from robot_perception.core.types import F32, F64

_REACH_M = 50.0
_GROUND_CELL_M, _ABOVE_GROUND_M, _HIGHEST_M = 0.5, 0.3, 3.0
_CELL_M = 0.25
_SCORE_CELL_M = 0.2
_FREE_M, _FREE_SHARE = np.float32(0.4), np.float32(0.02)
_MIN_POINTS, _MIN_MOVING, _MIN_SHARE = 15, 8, 0.12
_MAX_EXTENT_M = 14.0
_SAMPLE = 100
_CAP_M = np.float32(0.6)
# Steps and reaches of the search for a velocity, coarse to fine, in m/s.
_SEARCH_MPS = ((1.0, 25.0), (0.25, 1.0), (0.06, 0.25))
# What a m/s of speed must gain in mean distance to be believed.
_PER_MPS = np.float32(0.002)
_MIN_GAIN_M = 0.06
_MIN_SPEED_MPS = 0.4
_AROUND = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class PastScan:
    """An earlier scan: its points (N, 3) and those that `stand` (K, 3) above the ground, in its own
    frame; its range `image` (H, W); its `pose` (4, 4) in the present sensor frame; its age."""

    xyz: F32
    stand: F32
    image: F32
    pose: F64
    age_s: float


def velocities(
    xyz: F32, stands: NDArray[np.bool_], past: Sequence[PastScan], model: SensorModel
) -> F32:
    """Velocity (N, 3) in m/s of each point of the present scan (N, 3), in its frame; 0 where it
    rests, or is not known to move. `stands` (N,): which points are `above_ground`."""
    velocity = np.zeros_like(xyz)
    if not past:
        return velocity
    candidates = np.flatnonzero(stands)
    points = np.ascontiguousarray(xyz[candidates])
    moving = was_free(points, past, model)
    moved = [
        members
        for members in _clusters(points)
        if moving[members].sum() >= max(_MIN_MOVING, _MIN_SHARE * len(members))
    ]
    if not moved:
        return velocity
    maps = np.stack([_distance_map(scan) for scan in past])
    ages = np.array([scan.age_s for scan in past], np.float32)
    for members in moved:
        found = _best_velocity(points[members], maps, ages)
        if found is not None:
            velocity[candidates[members], :2] = found
    return velocity


def was_free(xyz: F32, past: Sequence[PastScan], model: SensorModel) -> NDArray[np.bool_]:
    """Which points (N, 3) of the present lie where one of the past scans looked through."""
    free = np.zeros(len(xyz), bool)
    for scan in past:
        # The nearest return around a pixel: an edge seen slightly beside it is not free space.
        far = np.where(scan.image > 0, scan.image, np.float32(np.inf))
        nearest = np.asarray(cv2.erode(far, _AROUND), np.float32)
        nearest[np.isinf(nearest)] = 0
        matrix = np.linalg.inv(scan.pose).astype(np.float32)
        _looked_through(xyz, matrix, *model.slopes, nearest, free)
    return free


@numba.njit(cache=True, nogil=True)
def _looked_through(
    xyz: F32,
    matrix: F32,
    slopes: F32,
    table: NDArray[np.int32],
    image: F32,
    free: NDArray[np.bool_],
) -> None:
    columns = image.shape[1]
    scale = np.float32(columns / (2 * np.pi))
    for i in range(len(xyz)):
        px, py, pz = xyz[i, 0], xyz[i, 1], xyz[i, 2]
        x = matrix[0, 0] * px + matrix[0, 1] * py + matrix[0, 2] * pz + matrix[0, 3]
        y = matrix[1, 0] * px + matrix[1, 1] * py + matrix[1, 2] * pz + matrix[1, 3]
        z = matrix[2, 0] * px + matrix[2, 1] * py + matrix[2, 2] * pz + matrix[2, 3]
        flat2 = x * x + y * y
        row = row_of(z, flat2, slopes, table)
        if row < 0:
            continue
        column = min(int((np.float32(np.pi) - np.arctan2(y, x)) * scale), columns - 1)
        reach = np.sqrt(flat2 + z * z)
        if image[row, column] > reach + max(_FREE_M, _FREE_SHARE * reach):
            free[i] = True


def above_ground(xyz: F32) -> NDArray[np.bool_]:
    """Which points (N, 3) stand 0.3 to 3 m above the lowest ones around them."""
    cells = int(2 * _REACH_M / _GROUND_CELL_M)
    index = _cell(xyz, np.float32(_GROUND_CELL_M), cells)
    lowest = _lowest(index, xyz, cells * cells).reshape(cells, cells)
    ground = np.append(minimum_filter(lowest, 5, mode="nearest").ravel(), np.inf)
    # Index -1, out of reach, is the appended infinity: -inf is no height.
    height = xyz[:, 2] - ground[index]
    return np.asarray((height > _ABOVE_GROUND_M) & (height < _HIGHEST_M))


@numba.njit(cache=True, nogil=True)
def _cell(xyz: F32, size_m: np.float32, cells: int) -> NDArray[np.int64]:
    """Cell of the ground plan (N,), -1 out of reach."""
    index = np.full(len(xyz), -1, np.int64)
    for i in range(len(xyz)):
        a = int(np.floor((xyz[i, 0] + np.float32(_REACH_M)) / size_m))
        b = int(np.floor((xyz[i, 1] + np.float32(_REACH_M)) / size_m))
        if 0 <= a < cells and 0 <= b < cells:
            index[i] = a * cells + b
    return index


@numba.njit(cache=True, nogil=True)
def _lowest(index: NDArray[np.int64], xyz: F32, size: int) -> F32:
    lowest = np.full(size, np.inf, np.float32)
    for i in range(len(index)):
        if index[i] >= 0 and xyz[i, 2] < lowest[index[i]]:
            lowest[index[i]] = xyz[i, 2]
    return lowest


def _clusters(points: F32) -> list[NDArray[np.intp]]:
    """Indices of the points of each cluster: connected cells seen from above."""
    cells = int(2 * _REACH_M / _CELL_M)
    index = _cell(points, np.float32(_CELL_M), cells)
    occupied = np.zeros(cells * cells, bool)
    occupied[index[index >= 0]] = True
    names, _ = label(occupied.reshape(cells, cells), np.ones((3, 3)))
    name = np.where(index >= 0, names.ravel()[index], 0)
    order = np.argsort(name, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(name[order])) + 1)
    extents = find_objects(names)
    limit = int(_MAX_EXTENT_M / _CELL_M)
    kept = []
    for group in groups:
        if len(group) < _MIN_POINTS or name[group[0]] == 0:
            continue
        if max(s.stop - s.start for s in extents[name[group[0]] - 1]) <= limit:
            kept.append(group)
    return kept


def _distance_map(scan: PastScan) -> F32:
    """Distance in m from each cell of the present's ground plan to what stood there in `scan`."""
    cells = int(2 * _REACH_M / _SCORE_CELL_M)
    pose = scan.pose.astype(np.float32)
    index = _cell(scan.stand @ pose[:3, :3].T + pose[:3, 3], np.float32(_SCORE_CELL_M), cells)
    empty = np.ones(cells * cells, np.uint8)
    empty[index[index >= 0]] = 0
    distance = cv2.distanceTransform(empty.reshape(cells, cells), cv2.DIST_L2, 3)
    capped: F32 = np.minimum(distance * np.float32(_SCORE_CELL_M), _CAP_M)
    return capped


def _best_velocity(cluster: F32, maps: F32, ages: F32) -> F32 | None:
    """The horizontal velocity (2,) that explains the cluster; None if standing does as well."""
    sample = np.ascontiguousarray(cluster[:: max(1, len(cluster) // _SAMPLE), :2])
    best = np.zeros(2, np.float32)
    still = cost = _costs(sample, best[None], maps, ages)[0]
    for step, reach in _SEARCH_MPS:
        offsets = np.arange(-reach, reach + step / 2, step, dtype=np.float32)
        grid = best + np.stack(np.meshgrid(offsets, offsets), -1).reshape(-1, 2)
        costs = _costs(sample, grid, maps, ages)
        lowest = int(costs.argmin())
        best, cost = grid[lowest], costs[lowest]
    moves = still - cost > _MIN_GAIN_M and np.hypot(*best) > _MIN_SPEED_MPS
    return best if moves else None


@numba.njit(cache=True, nogil=True)
def _costs(sample: F32, grid: F32, maps: F32, ages: F32) -> F32:
    """Mean distance (G,) of points (N, 2) to the earlier scans, if they moved at `grid` (G, 2)."""
    cells = maps.shape[1]
    costs = np.empty(len(grid), np.float32)
    per_cell = np.float32(1 / _SCORE_CELL_M)
    for g in range(len(grid)):
        total = np.float32(0)
        vx, vy = grid[g, 0], grid[g, 1]
        for k in range(len(ages)):
            dx, dy = np.float32(_REACH_M) - vx * ages[k], np.float32(_REACH_M) - vy * ages[k]
            for i in range(len(sample)):
                a, b = int((sample[i, 0] + dx) * per_cell), int((sample[i, 1] + dy) * per_cell)
                inside = 0 <= a < cells and 0 <= b < cells
                total += maps[k, a, b] if inside else _CAP_M
        mean = total / np.float32(len(ages) * len(sample))
        costs[g] = mean + _PER_MPS * np.sqrt(vx * vx + vy * vy)
    return costs
