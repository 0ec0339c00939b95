"""Scan <-> range image: spherical projection at the sensor's own beam elevations.

Row 0 is the highest beam. Column 0 starts at azimuth pi (behind the sensor), azimuth falls with the
column, so x (forward) is in the middle and the image reads like a picture: left is left. A range
image is (H, W) float32 metres; 0 means no return.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from robot_perception.core.errors import InputRejected
from robot_perception.core.projection import draw_points
from robot_perception.core.types import F32, F64, I32, U16

Lens: TypeAlias = tuple[F32, I32, tuple[np.float32, np.float32], tuple[int, int]]

_HERE: F64 = np.eye(4)
_TABLE = 2048
_BIN_RAD = np.deg2rad(0.02)
BEHIND_M, BEHIND_SHARE = np.float32(1.0), np.float32(0.1)


@dataclass(frozen=True, eq=False)
class SensorModel:
    """A spinning LiDAR: `elevations_rad` (H,) falling from top to bottom, `columns` a revolution.

    Points nearer than `min_range_m` or farther than `max_range_m` are not projected, nor those more
    than half a beam and `margin_rad` above the top or below the bottom one.
    """

    elevations_rad: F64
    columns: int
    min_range_m: float
    max_range_m: float
    margin_rad: float = 0.0

    def __post_init__(self) -> None:
        if len(self.elevations_rad) < 2 or not (np.diff(self.elevations_rad) < 0).all():
            raise ValueError("elevations must fall from the top beam to the bottom one")

    @property
    def rows(self) -> int:
        return len(self.elevations_rad)

    @cached_property
    def boundaries(self) -> F64:
        """(H + 1,) elevations between the rows, the outer ones half a beam beyond, ascending."""
        e = self.elevations_rad[::-1]
        middle = (e[1:] + e[:-1]) / 2
        bottom = e[0] - (e[1] - e[0]) / 2 - self.margin_rad
        top = e[-1] + (e[-1] - e[-2]) / 2 + self.margin_rad
        return np.concatenate([[bottom], middle, [top]])

    @cached_property
    def slopes(self) -> tuple[F32, NDArray[np.int32]]:
        """Tangents (H + 1,) of the boundaries, and a table (K,) from equal steps of slope between
        them to the first boundary not below: finds a row without an arctangent. The steps are so
        small that at most one boundary lies in each."""
        slopes = np.tan(self.boundaries).astype(np.float32)
        count = int((slopes[-1] - slopes[0]) / np.diff(slopes).min()) + 2
        steps = np.linspace(slopes[0], slopes[-1], max(_TABLE, count), endpoint=False)
        return slopes, np.searchsorted(slopes, steps).astype(np.int32)

    @cached_property
    def directions(self) -> F32:
        """(H, W, 3) unit vectors through the pixel centres."""
        azimuth = np.pi - (np.arange(self.columns) + 0.5) * (2 * np.pi / self.columns)
        e = self.elevations_rad[:, None]
        parts = (np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth))
        z = np.broadcast_to(np.sin(e), (self.rows, self.columns))
        return np.stack([*parts, z], axis=-1).astype(np.float32)


def project(xyz: F32, model: SensorModel) -> tuple[F32, NDArray[np.int32]]:
    """Range image (H, W) of points (N, 3), the nearest in each pixel, and its index or -1."""
    image, ranges, pixels = look(xyz, _HERE, model)
    index = np.full(image.size, -1, np.int32)
    nearest = np.flatnonzero((pixels >= 0) & (ranges == image.ravel()[pixels]))
    # Of two points at the same range the first one stays.
    index[pixels[nearest][::-1]] = nearest[::-1]
    return image, index.reshape(image.shape)


@numba.njit(cache=True, nogil=True)
def is_behind(ranges: F32, nearest: F32) -> NDArray[np.bool_]:
    """Which ranges (N,) are behind the nearest (N,) of their pixels by more than 1 m and 10 %; in
    compiled loops, whether one is."""
    behind: NDArray[np.bool_] = ranges - nearest > np.maximum(BEHIND_M, BEHIND_SHARE * nearest)
    return behind


def look(
    xyz: F32,
    matrix: F64,
    model: SensorModel,
    out: tuple[F32, I32] | None = None,
    image: F32 | None = None,
) -> tuple[F32, F32, I32]:
    """Range image (H, W) of points (N, 3) after moving them by `matrix` (4, 4); the range (N,) and
    the pixel (N,), row by row, of each; -1 outside of the image. `out`: arrays for the last two;
    `image`: what is drawn on, nearer points in front."""
    if image is None:
        image = np.zeros((model.rows, model.columns), np.float32)
    count = len(xyz)
    ranges, pixels = out or (np.empty(count, np.float32), np.empty(count, np.int32))
    draw_points(xyz, matrix.astype(np.float32), *lens(model), ranges, pixels, image.reshape(-1))
    return image, ranges, pixels


def lens(model: SensorModel) -> Lens:
    """What `draw_points` has to know of a sensor."""
    limits = (np.float32(model.min_range_m), np.float32(model.max_range_m))
    return *model.slopes, limits, (model.rows, model.columns)


def unproject(ranges: F32, model: SensorModel) -> F32:
    """Points (N, 3) at the pixel centres of a range image, row by row, no return left out."""
    seen = ranges > 0
    return model.directions[seen] * ranges[seen][:, None]


def calibrate_elevations(xyz: F32, beams: int, ring: U16 | None = None) -> F64:
    """The elevation of each of `beams` beams, top first, from one or more scans (N, 3).

    With `ring`, the median elevation of each ring; without, the peaks of the elevation histogram,
    and where there are fewer than beams, evenly spread over the gaps. Raises InputRejected when the
    points do not look like those of a spinning LiDAR with that many beams.
    """
    flat = np.hypot(xyz[:, 0], xyz[:, 1])
    # Near points show the offsets between lasers rather than their elevations.
    far = np.hypot(flat, xyz[:, 2]) > 3.0
    elevation = np.arctan2(xyz[far, 2], flat[far]).astype(np.float64)
    if len(elevation) < 20 * beams:
        raise InputRejected(f"{len(elevation)} points are too few to find {beams} beams")
    if ring is not None:
        found = _by_ring(elevation, ring[far])
        if len(found) == beams:
            return found
    span = elevation.max() - elevation.min()
    if span < beams * _BIN_RAD:
        raise InputRejected(f"the points span too few elevations for {beams} beams")
    # A margin on both sides, or the outermost beams are no peaks.
    margin = span / beams + _BIN_RAD
    edges = np.arange(elevation.min() - margin, elevation.max() + margin, _BIN_RAD)
    counts = np.histogram(elevation, edges)[0].astype(np.float64)
    centres = (edges[1:] + edges[:-1]) / 2
    spacing = span / _BIN_RAD / beams
    smooth = gaussian_filter1d(counts, max(1.0, spacing / 8))
    peaks, _ = find_peaks(smooth, distance=max(1, int(spacing * 0.4)))
    if len(peaks) > beams:
        peaks = np.sort(peaks[np.argsort(smooth[peaks])[::-1][:beams]])
    if len(peaks) < 2:
        raise InputRejected(f"the points show no beams where {beams} are expected")
    return np.sort(_fill(centres[peaks], beams))[::-1]


def _by_ring(elevation: F64, ring: U16) -> F64:
    order = np.argsort(ring, kind="stable")
    names, starts = np.unique(ring[order], return_index=True)
    groups = np.split(elevation[order], starts[1:])
    medians = np.sort([np.median(group) for group in groups])[::-1]
    distinct = len(names) > 1 and (np.diff(medians) < 0).all()
    return medians if distinct else np.zeros(0)


def _fill(elevations: F64, beams: int) -> F64:
    """Halve the widest gap until there are `beams` elevations."""
    filled = list(np.sort(elevations))
    while len(filled) < beams:
        widest = int(np.argmax(np.diff(filled)))
        filled.insert(widest + 1, (filled[widest] + filled[widest + 1]) / 2)
    return np.array(filled)
