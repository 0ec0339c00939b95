"""What may be predicted: every point of the scan and of the memory, at every horizon."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.scene import Scene
from robot_perception.core.range_image import (
    BEHIND_M,
    BEHIND_SHARE,
    SensorModel,
    is_behind,
    look,
)
from robot_perception.core.types import F32, F64

# Columns to both sides in which nothing may cover a remembered point.
_COVER = 2


@dataclass(frozen=True, eq=False)
class Candidates:
    """Points (P, 3) at the time of the scan, the first `observed` of them its own, the others from
    the memory; their `velocity` (P, 3); `visible` (T, P): whether geometry says that the sensor
    sees them at each horizon, where their velocity takes them, with their `ranges` (T, P) and
    `pixels` (T, P) then, -1 outside; and its `poses` (T, 4, 4)."""

    points: F32
    velocity: F32
    observed: int
    visible: NDArray[np.bool_]
    ranges: F32
    pixels: NDArray[np.int32]
    poses: F64
    horizons_s: tuple[float, ...]

    def at(self, horizon: int) -> F32:
        """The points (P, 3) where their velocity takes them, in the frame of the scan."""
        moved: F32 = self.points + self.velocity * np.float32(self.horizons_s[horizon])
        return moved


def candidates(
    scene: Scene, poses: F64, horizons_s: tuple[float, ...], model: SensorModel
) -> Candidates:
    """All that `scene` knows, and what of it can be seen from `poses` (T, 4, 4)."""
    points = np.concatenate([scene.xyz, scene.memory])
    velocity = np.concatenate([scene.velocity, np.zeros_like(scene.memory)])
    behind_now = is_behind(scene.ranges, scene.image.ravel()[scene.pixels])

    def see(horizon: int) -> tuple[NDArray[np.bool_], F32, NDArray[np.int32]]:
        inverse = np.asarray(np.linalg.inv(poses[horizon]), np.float64)
        moved = points
        if scene.velocity.any():
            moved = points + velocity * np.float32(horizons_s[horizon])
        image, ranges, pixels = look(moved, inverse, model)
        return _visible(image, ranges, pixels, behind_now), ranges, pixels

    with ThreadPoolExecutor() as pool:
        views = list(pool.map(see, range(len(poses))))
    visible, ranges, pixels = (np.stack(v) for v in zip(*views, strict=True))
    return Candidates(points, velocity, len(scene.xyz), visible, ranges, pixels, poses, horizons_s)


@numba.njit(cache=True, nogil=True)
def _visible(
    image: F32, ranges: F32, pixels: NDArray[np.int32], behind_now: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which points (P,) are seen. What the sensor sees now, although it seems behind something,
    is no less visible then; the memory has to be uncovered by more than a gap between points."""
    columns = image.shape[1]
    flat = image.ravel()
    visible = np.zeros(len(ranges), np.bool_)
    for i in range(len(ranges)):
        pixel = pixels[i]
        if pixel < 0:
            continue
        nearest = flat[pixel]
        if i < len(behind_now):
            if behind_now[i]:
                visible[i] = True
                continue
        else:
            row, column = pixel // columns, pixel % columns
            for offset in range(-_COVER, _COVER + 1):
                beside = image[row, (column + offset) % columns]
                if 0 < beside < nearest:
                    nearest = beside
        visible[i] = ranges[i] - nearest <= max(BEHIND_M, BEHIND_SHARE * nearest)
    return visible
