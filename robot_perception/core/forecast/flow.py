"""Things that move: which points of a scan, and how fast, by clusters of constant velocity.

A point moves if an earlier scan looked through the place where it is now (free-space violation).
Clusters with enough such points get the horizontal velocity that lays them best onto the earlier
scans, all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.warp import transform
from robot_perception.core.range_image import SensorModel, look
from robot_perception.core.threads import threads
from robot_perception.core.types import F32, F64, I32, U8

REACH_M = 50.0
GROUND_CELL_M, ABOVE_GROUND_M, HIGHEST_M = 0.5, 0.3, 3.0
CELL_M = 0.25
SCORE_CELL_M = 0.2
FREE_M, FREE_SHARE = np.float32(0.4), np.float32(0.02)
_MIN_POINTS, _MIN_MOVING, _MIN_SHARE = 15, 8, 0.12
_MAX_EXTENT_M = 14.0
SAMPLE = 100
CAP_M = np.float32(0.6)
# Steps and reaches of the search for a velocity, coarse to fine, in m/s.
_SEARCH_MPS = ((1.0, 25.0), (0.25, 1.0), (0.06, 0.25))
# What a m/s of speed must gain in mean distance to be believed.
PER_MPS = np.float32(0.002)
MIN_GAIN_M = 0.06
MIN_SPEED_MPS = 0.4


@dataclass(frozen=True, eq=False)
class PastScan:
    """An earlier scan: its points (N, 3) and those that `stand` (K, 3) above the ground, in its own
    frame; the `nearest` range (H, W) around each pixel of its range image; its `pose` (4, 4) in the
    present sensor frame; its age."""

    xyz: F32
    stand: F32
    nearest: F32
    pose: F64
    age_s: float


@dataclass(frozen=True, eq=False)
class Standing:
    """What stands above the ground in a scan: which of its points (K,), and themselves (K, 3)."""

    index: NDArray[np.intp]
    points: F32


@dataclass(frozen=True, eq=False)
class Comparison:
    """What is under way about points that stand (K, 3): which of them (K,) were free space, and, by
    past scan, the distance to what stood there in it, and its age."""

    free: Future[NDArray[np.bool_]]
    maps: tuple[Future[F32], ...]
    ages: F32


def compare(stands: Standing, past: Sequence[PastScan], model: SensorModel) -> Comparison:
    """Begin to compare what stands with past scans."""
    return Comparison(
        threads().submit(was_free, stands.points, past, model),
        tuple(threads().submit(_distance_map, scan) for scan in past),
        np.array([scan.age_s for scan in past], np.float32),
    )


def velocities(
    count: int, stands: Standing, compared: Comparison | None
) -> tuple[F32, NDArray[np.bool_]]:
    """Velocity (N, 3) in m/s of each of the `count` points of the present scan, in its frame, 0
    where it rests or is not known to move; and which of them (N,) move."""
    velocity, moves = np.zeros((count, 3), np.float32), np.zeros(count, bool)
    if compared is None:
        return velocity, moves
    cluster = _clusters(stands.points)
    size = np.bincount(cluster)
    moving = np.bincount(cluster[compared.free.result()], minlength=len(size))
    enough = may_move(size, moving)
    members = [np.flatnonzero(cluster == name) for name in np.flatnonzero(enough)]
    if not members:
        return velocity, moves
    maps, ages = np.stack([distances.result() for distances in compared.maps]), compared.ages
    found = list(threads().map(lambda m: _best_velocity(stands.points[m], maps, ages), members))
    for those, best in zip(members, found, strict=True):
        if best is not None:
            velocity[stands.index[those], :2] = best
            moves[stands.index[those]] = True
    return velocity, moves


def may_move(size: NDArray[np.intp], moving: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which clusters (K,), the first of which is none, have enough points in free space."""
    enough = (size >= _MIN_POINTS) & (moving >= np.maximum(_MIN_MOVING, _MIN_SHARE * size))
    enough[0] = False
    return np.asarray(enough)


def was_free(xyz: F32, past: Sequence[PastScan], model: SensorModel) -> NDArray[np.bool_]:
    """Which points (N, 3) of the present lie where one of the past scans looked through."""
    free = np.zeros(len(xyz), bool)
    for scan in past:
        _, ranges, pixels = look(xyz, np.asarray(np.linalg.inv(scan.pose)), model)
        _find_free(ranges, pixels, scan.nearest.reshape(-1), free)
    return free


@numba.njit(cache=True, nogil=True)
def _find_free(
    ranges: F32, pixels: NDArray[np.int32], nearest: F32, free: NDArray[np.bool_]
) -> None:
    """Which points (N,) are nearer than all that an earlier scan saw around their pixels."""
    for i in range(len(ranges)):
        if pixels[i] >= 0:
            margin = max(FREE_M, FREE_SHARE * ranges[i])
            free[i] |= nearest[np.uint32(pixels[i])] > ranges[i] + margin


@numba.njit(cache=True, nogil=True)
def nearest_around(image: F32) -> F32:
    """The nearest range in each pixel of (H, W) and the eight around it, 0 where there is none: an
    edge seen slightly beside it is not free space."""
    rows, columns = image.shape
    far = np.float32(np.inf)
    along = np.empty((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            nearest = far
            for k in range(max(j - 1, 0), min(j + 2, columns)):
                if image[i, k] > 0:
                    nearest = min(nearest, image[i, k])
            along[i, j] = nearest
    around = np.empty((rows, columns), np.float32)
    for i in range(rows):
        above, below = along[max(i - 1, 0)], along[min(i + 1, rows - 1)]
        for j in range(columns):
            nearest = min(along[i, j], above[j], below[j])
            around[i, j] = nearest if nearest < far else np.float32(0)
    return around


@numba.njit(cache=True, nogil=True)
def _cell(xyz: F32, size_m: np.float32, cells: int) -> I32:
    """Cell of the ground plan (N,), -1 out of reach."""
    index = np.empty(len(xyz), np.int32)
    reach, side = np.float32(REACH_M), np.float32(cells)
    for i in range(len(xyz)):
        a = np.floor((xyz[i, 0] + reach) / size_m)
        b = np.floor((xyz[i, 1] + reach) / size_m)
        inside = (a >= 0) & (a < side) & (b >= 0) & (b < side)
        # What is outside may be beyond the integers.
        a, b = a if inside else np.float32(0), b if inside else np.float32(0)
        index[i] = np.int32(a) * np.int32(cells) + np.int32(b) if inside else np.int32(-1)
    return index


@numba.njit(cache=True, nogil=True)
def _lowest(index: I32, xyz: F32, size: int) -> F32:
    lowest = np.full(size, np.inf, np.float32)
    for i in range(len(index)):
        if index[i] >= 0:
            at = np.uint32(index[i])
            lowest[at] = min(lowest[at], xyz[i, 2])
    return lowest


@numba.njit(cache=True, nogil=True)
def above_ground(xyz: F32) -> tuple[NDArray[np.intp], F32]:
    """Which points (N, 3) stand 0.3 to 3 m above the lowest ones within two cells around them: (K,)
    and themselves (K, 3)."""
    cells = int(2 * REACH_M / GROUND_CELL_M)
    index = _cell(xyz, np.float32(GROUND_CELL_M), cells)
    lowest = _lowest(index, xyz, cells * cells)
    ground = _lowest_around(lowest.reshape(cells, cells)).reshape(-1)
    stands = np.empty(len(xyz), np.intp)
    count = np.int64(0)
    for i in range(len(xyz)):
        if index[i] < 0:
            continue
        height = np.float64(xyz[i, 2]) - np.float64(ground[np.uint32(index[i])])
        stands[count] = i
        count += np.int64((height > ABOVE_GROUND_M) & (height < HIGHEST_M))
    points = np.empty((count, 3), np.float32)
    for k in range(count):
        points[k] = xyz[stands[k]]
    return stands[:count].copy(), points


@numba.njit(cache=True, nogil=True)
def _lowest_around(lowest: F32) -> F32:
    """The lowest (cells, cells) within two cells in both directions."""
    cells = len(lowest)
    along, around = np.empty_like(lowest), np.empty_like(lowest)
    for i in range(cells):
        row = lowest[i]
        for j in range(2, cells - 2):
            along[i, j] = min(row[j - 2], row[j - 1], row[j], row[j + 1], row[j + 2])
        for j in (0, 1, cells - 2, cells - 1):
            along[i, j] = row[max(j - 2, 0) : j + 3].min()
    for i in range(cells):
        a, b = along[max(i - 2, 0)], along[max(i - 1, 0)]
        c, d = along[min(i + 1, cells - 1)], along[min(i + 2, cells - 1)]
        for j in range(cells):
            around[i, j] = min(a[j], b[j], along[i, j], c[j], d[j])
    return around


def _clusters(points: F32) -> NDArray[np.int32]:
    """The cluster (K,) of each point: connected cells seen from above; 0 for none or too wide."""
    cells = int(2 * REACH_M / CELL_M)
    index = _cell(points, np.float32(CELL_M), cells)
    kept, names = connected(_occupied(index, cells))
    return _names(index, names.reshape(-1), kept)


@numba.njit(cache=True, nogil=True)
def _occupied(index: I32, cells: int) -> U8:
    """1 in each cell of the ground plan (C, C) that points (K,) are in, else 0."""
    occupied = np.zeros(cells * cells, np.uint8)
    for k in range(len(index)):
        if index[k] >= 0:
            occupied[np.uint32(index[k])] = 1
    return occupied.reshape(cells, cells)


@numba.njit(cache=True, nogil=True)
def _names(index: I32, names: I32, kept: NDArray[np.intp]) -> I32:
    """The name (K,) of the component in each point's cell, if it is kept; 0 out of reach."""
    found = np.zeros(len(index), np.int32)
    for k in range(len(index)):
        if index[k] >= 0:
            found[k] = kept[np.uint32(names[np.uint32(index[k])])]
    return found


def connected(occupied: U8) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Of each component (K,) of a ground plan (R, C), by number, itself, or 0 if it is none or too
    wide; and the component (R, C) of each cell."""
    count, names, boxes, _ = cv2.connectedComponentsWithStats(occupied, connectivity=8)
    limit = int(_MAX_EXTENT_M / CELL_M)
    extent = boxes[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    kept = np.where(extent <= limit, np.arange(count), 0)
    kept[0] = 0
    return kept, np.asarray(names, np.int32)


def _distance_map(scan: PastScan) -> F32:
    """Distance in m from each cell of the present's ground plan to what stood there in `scan`."""
    return _distances(transform(scan.stand, scan.pose), _around())


@cache
def _around() -> F32:
    """The distance in m (R, R) from a cell in the middle of a ground plan to those around it, as
    far as it is below the cap."""
    reach = round(float(CAP_M) / SCORE_CELL_M)
    elsewhere = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    elsewhere[reach, reach] = 0
    distance = cv2.distanceTransform(elsewhere, cv2.DIST_L2, 3)
    capped: F32 = np.minimum(distance * np.float32(SCORE_CELL_M), CAP_M)
    return capped


@numba.njit(cache=True, nogil=True)
def _distances(points: F32, around: F32) -> F32:
    """Distance in m from each cell of the ground plan (C, C) to the nearest with a point (K, 3) in
    it, capped: only cells `around` (R, R) are nearer, where a transform goes over all of them."""
    cells, side = int(2 * REACH_M / SCORE_CELL_M), len(around)
    index = _cell(points, np.float32(SCORE_CELL_M), cells)
    known = np.zeros(cells * cells, np.bool_)
    # With a margin, so that no cell has to ask what is around it.
    wide = cells + side - 1
    distances = np.full(wide * wide, CAP_M)
    for k in range(len(index)):
        if index[k] < 0 or known[np.uint32(index[k])]:
            continue
        known[np.uint32(index[k])] = True
        corner = index[k] // cells * wide + index[k] % cells
        for i in range(side):
            for j in range(side):
                at = np.uint32(corner + i * wide + j)
                distances[at] = min(distances[at], around[i, j])
    margin = side // 2
    return distances.reshape(wide, wide)[margin : margin + cells, margin : margin + cells]


def _best_velocity(cluster: F32, maps: F32, ages: F32) -> F32 | None:
    """The horizontal velocity (2,) that explains the cluster; None if standing does as well."""
    sample = np.ascontiguousarray(cluster[:: max(1, len(cluster) // SAMPLE), :2])
    best = np.zeros(2, np.float32)
    _, still = _search(sample, best[None], maps, ages)
    cost = still
    for around in offsets():
        grid = best + around
        lowest, cost = _search(sample, grid, maps, ages)
        best = grid[lowest]
    moves = still - cost > MIN_GAIN_M and np.hypot(*best) > MIN_SPEED_MPS
    return best if moves else None


@cache
def offsets() -> tuple[F32, ...]:
    """The grids (G, 2) of velocities of the search, the slow ones first: they are the likely ones,
    and each velocity is given up at the cost of the best so far."""
    grids = []
    for step, reach in _SEARCH_MPS:
        along = np.arange(-reach, reach + step / 2, step, dtype=np.float32)
        grid = np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)
        grids.append(grid[np.argsort(np.hypot(*grid.T), kind="stable")])
    return tuple(grids)


@numba.njit(cache=True, nogil=True)
def _search(sample: F32, grid: F32, maps: F32, ages: F32) -> tuple[int, np.float32]:
    """Which velocity of `grid` (G, 2) has the lowest mean distance of points (N, 2) to the earlier
    scans, if they moved at it; and that cost. A velocity is given up once it costs more."""
    cells = maps.shape[1]
    per_cell = np.float32(1 / SCORE_CELL_M)
    count = np.float32(len(ages) * len(sample))
    best, lowest = 0, np.float32(np.inf)
    for g in range(len(grid)):
        vx, vy = grid[g, 0], grid[g, 1]
        speed = PER_MPS * np.sqrt(vx * vx + vy * vy)
        limit, total = (lowest - speed) * count, np.float32(0)
        for k in range(len(ages)):
            dx, dy = np.float32(REACH_M) - vx * ages[k], np.float32(REACH_M) - vy * ages[k]
            for i in range(len(sample)):
                a, b = int((sample[i, 0] + dx) * per_cell), int((sample[i, 1] + dy) * per_cell)
                inside = 0 <= a < cells and 0 <= b < cells
                total += maps[k, a, b] if inside else CAP_M
                if total > limit:
                    break
            if total > limit:
                break
        cost = total / count + speed
        if cost < lowest:
            best, lowest = g, cost
    return best, lowest
