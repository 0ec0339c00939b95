"""How likely a predicted point is there: measured, not assumed.

A point counts as there when the scan that then comes has a point within 0.3 m of it. The table was
made by `measure` on two KITTI recordings (HDL-64E, 2011-09-26: 60 scans standing in dense traffic,
30 scans driving at 3 m/s through a street); on another sensor or at another speed it is a prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial import cKDTree

from robot_perception.core.forecast.candidates import candidates
from robot_perception.core.forecast.motion import MotionEstimator
from robot_perception.core.forecast.scene import alone
from robot_perception.core.forecast.warp import predicted_poses, transform
from robot_perception.core.range_image import SensorModel
from robot_perception.core.types import F32, F64, Scan

_NEAR_M = 0.3
_HORIZONS_S = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
_RANGES_M = np.array([2.5, 7.5, 15.0, 30.0, 60.0])
STEP_M = 0.1
_EDGES_M = np.array([0.0, 5.0, 10.0, 20.0, 40.0, np.inf])
_WARP = np.array(
    [
        [0.994, 0.995, 0.961, 0.912, 0.879],
        [0.963, 0.968, 0.904, 0.870, 0.818],
        [0.925, 0.940, 0.873, 0.837, 0.771],
        [0.891, 0.920, 0.843, 0.806, 0.731],
        [0.858, 0.898, 0.817, 0.770, 0.685],
    ]
)


def of_warp(ranges_m: F32, horizon_s: float) -> F32:
    """Probability (N,) of points of the ego-warp at these ranges, `horizon_s` ahead."""
    table = fine(horizon_s)
    step = np.minimum(ranges_m * np.float32(1 / STEP_M), np.float32(len(table) - 1))
    chances: F32 = table[step.astype(np.int32)]
    return chances


@lru_cache(maxsize=64)
def fine(horizon_s: float) -> F32:
    """The table at a horizon, in steps of range: ten times as fast as interpolating."""
    horizon = np.clip(horizon_s, _HORIZONS_S[0], _HORIZONS_S[-1])
    table = RegularGridInterpolator((_HORIZONS_S, _RANGES_M), _WARP)
    along = table(np.stack(np.broadcast_arrays(horizon, _RANGES_M), axis=1))
    ranges = np.arange(0, _RANGES_M[-1] + STEP_M, STEP_M)
    return np.asarray(np.interp(ranges, _RANGES_M, along), np.float32)


def measure(recordings: Sequence[Sequence[Scan]], model: SensorModel, stride: int = 3) -> F64:
    """(horizon, range) share of warped points within 0.3 m of the scan that came, 10 Hz scans."""
    hits = np.zeros((len(_HORIZONS_S), len(_RANGES_M)))
    seen = np.zeros_like(hits)
    for scans in recordings:
        motion = MotionEstimator("clouds", 0.1)
        for i, scan in enumerate(scans):
            found = motion.step(scan, None)
            if found is None or i % stride or i + len(_HORIZONS_S) >= len(scans):
                continue
            poses = predicted_poses(found.twist, _HORIZONS_S.tolist())
            known = candidates(alone(scan, found, model), poses, tuple(_HORIZONS_S), model)
            for h, pose in enumerate(poses):
                moved = transform(scan.xyz[known.visible[h]], np.linalg.inv(pose))
                distance, _ = cKDTree(scans[i + h + 1].xyz).query(moved)
                bins = np.searchsorted(_EDGES_M, np.linalg.norm(moved, axis=1)) - 1
                hits[h] += np.bincount(bins, distance < _NEAR_M, len(_RANGES_M))
                seen[h] += np.bincount(bins, minlength=len(_RANGES_M))
    return np.asarray(hits / np.maximum(1, seen))
