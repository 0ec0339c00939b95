"""What kind of LiDAR made some scans: beams, columns, field of view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.errors import InputRejected
from robot_perception.core.range_image import calibrate_elevations
from robot_perception.core.types import F32, F64, U16, Scan

# Beams of the spinning LiDARs that are sold.
_BEAMS = (16, 32, 40, 64, 80, 128)
_COLUMNS = (256, 512, 1024, 2048, 4096)
# Share of the points within a quarter of the spacing of their beam: a half where there are none.
_CONCENTRATED, _CONCENTRATED_ROWS = 0.8, 0.6
_BINS = 72
_FULL = 0.9


@dataclass(frozen=True, eq=False)
class LidarPattern:
    """`elevations_rad` (H,) of the beams, top first, none where the points do not lie on beams;
    `by_ring`: whether the sensor names them. `columns` of a range image that holds a revolution.
    `azimuth_share`: the part of the circle in which there are points."""

    elevations_rad: F64
    by_ring: bool
    columns: int
    azimuth_share: float

    @property
    def beams(self) -> int:
        return len(self.elevations_rad)

    @property
    def revolves(self) -> bool:
        """Whether points lie on beams all around."""
        return self.beams > 0 and self.azimuth_share >= _FULL


def find_pattern(scans: Sequence[Scan]) -> LidarPattern:
    """The pattern of the sensor that made all of `scans`; raises InputRejected without points."""
    xyz = np.concatenate([scan.xyz for scan in scans])
    far = _far(xyz)
    if far.sum() < 1000:
        raise InputRejected(f"{int(far.sum())} points farther than 2 m: too few to tell the sensor")
    azimuth = np.arctan2(xyz[far, 1], xyz[far, 0])
    occupied = np.bincount(((azimuth + np.pi) / (2 * np.pi) * _BINS).astype(int) % _BINS)
    elevations = _of_rows(scans)
    by_ring = len(elevations) > 0 and scans[0].ring is not None
    if not len(elevations):
        elevations = _of_peaks(xyz[far])
    columns = _columns(scans[-1], elevations)
    return LidarPattern(elevations, by_ring, columns, float((occupied > 0).sum() / _BINS))


def _far(xyz: F32) -> NDArray[np.bool_]:
    """Near points are of the robot itself, and where the beams start matters for them."""
    return np.asarray(np.hypot(xyz[:, 0], xyz[:, 1]) > 2.0)


def _of_rows(scans: Sequence[Scan]) -> F64:
    """The elevations (H,) where each point's beam is known, of the first scan that shows them."""
    for scan in scans:
        ring = _rows_in_order(scan.xyz) if scan.ring is None else scan.ring
        far = _far(scan.xyz)
        xyz, ring = scan.xyz[far], ring[far]
        beams = len(np.unique(ring))
        if not 2 <= beams <= 256:
            continue
        try:
            found = calibrate_elevations(xyz, beams, ring)
        except InputRejected:
            continue
        if _concentration(xyz, found) >= _CONCENTRATED_ROWS:
            return found
    return np.zeros(0)


def _rows_in_order(xyz: F32) -> U16:
    """The row (N,) of each point of a cloud stored row by row: the turns that the azimuth makes."""
    turned = np.abs(np.unwrap(np.arctan2(xyz[:, 1], xyz[:, 0]).astype(np.float64)))
    return np.asarray(np.minimum((turned - turned[0]) / (2 * np.pi) + 0.01, 999), np.uint16)


def _of_peaks(xyz: F32) -> F64:
    """The elevations (H,) of the fewest beams on which the points lie; none if on no beams."""
    for beams in _BEAMS:
        try:
            found = calibrate_elevations(xyz, beams)
        except InputRejected:
            continue
        if _concentration(xyz, found) >= _CONCENTRATED:
            return found
    return np.zeros(0)


def _concentration(xyz: F32, beams: F64) -> float:
    """Share of points (N, 3) within a quarter of the spacing of the nearest of `beams` (H,)."""
    elevation = np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1]))
    rising = beams[::-1]
    spacing = np.diff(rising)
    after = np.clip(np.searchsorted(rising, elevation), 1, len(rising) - 1)
    position = (elevation - rising[after - 1]) / spacing[after - 1]
    return float((np.abs(position - np.round(np.clip(position, 0, 1))) < 0.25).mean())


def _columns(scan: Scan, beams: F64) -> int:
    """The usual number of columns nearest to the step in azimuth along a beam."""
    if not len(beams):
        return 0
    flat = np.hypot(scan.xyz[:, 0], scan.xyz[:, 1])
    middles = (beams[1:] + beams[:-1])[::-1] / 2
    row = np.searchsorted(middles, np.arctan2(scan.xyz[:, 2], flat))
    azimuth = np.arctan2(scan.xyz[:, 1], scan.xyz[:, 0])
    order = np.lexsort((azimuth, row))
    step, same = np.diff(azimuth[order]), np.diff(row[order]) == 0
    steps = step[same & (step > 1e-5)]
    if not len(steps):
        return 0
    around = 2 * np.pi / float(np.median(steps))
    return min(_COLUMNS, key=lambda columns: abs(np.log(columns / around)))
