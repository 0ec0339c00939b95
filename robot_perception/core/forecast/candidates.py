"""What may be predicted: every point of the scan and of the memory, at every horizon."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.scene import Scene
from robot_perception.core.range_image import SensorModel, is_behind, look
from robot_perception.core.threads import threads
from robot_perception.core.types import F32, F64

# Columns to both sides in which nothing may cover a remembered point.
COVER = 2


@dataclass(frozen=True, eq=False)
class Candidates:
    """Points (P, 3) at the time of the scan, the first `observed` of them its own, the others from
    the memory; their `velocity` (P, 3), and which of them (P,) move; `visible` (T, P): whether
    geometry says that the sensor sees them at each horizon, where their velocity takes them, with
    their `ranges` (T, P) and `pixels` (T, P) then, -1 outside; and its `poses` (T, 4, 4)."""

    points: F32
    velocity: F32
    moves: NDArray[np.bool_]
    observed: int
    visible: NDArray[np.bool_]
    ranges: F32
    pixels: NDArray[np.int32]
    poses: F64
    horizons_s: tuple[float, ...]

    def at(self, horizon: int) -> F32:
        """The points (P, 3) where their velocity takes them, in the frame of the scan."""
        return _moved(self.points, self.velocity, np.float32(self.horizons_s[horizon]))


def candidates(
    scene: Scene, poses: F64, horizons_s: tuple[float, ...], model: SensorModel
) -> Candidates:
    """All that `scene` knows, and what of it can be seen from `poses` (T, 4, 4)."""
    points = np.concatenate([scene.xyz, scene.memory])
    velocity = np.concatenate([scene.velocity, np.zeros_like(scene.memory)])
    moves = np.concatenate([scene.moves, np.zeros(len(scene.memory), bool)])
    behind_now = _behind_now(scene.ranges, scene.pixels, scene.image.ravel())

    shape = (len(poses), len(points))
    ranges, pixels = np.empty(shape, np.float32), np.empty(shape, np.int32)
    visible = np.empty(shape, bool)

    those = np.flatnonzero(moves)

    def see(h: int) -> None:
        inverse = np.asarray(np.linalg.inv(poses[h]), np.float64)
        moved = points
        if len(those):
            moved = points.copy()
            moved[those] = _moved(points[those], velocity[those], np.float32(horizons_s[h]))
        image, _, _ = look(moved, inverse, model, (ranges[h], pixels[h]))
        _find_visible(image, ranges[h], pixels[h], behind_now, visible[h])

    list(threads().map(see, range(len(poses))))
    return Candidates(
        points, velocity, moves, len(scene.xyz), visible, ranges, pixels, poses, horizons_s
    )


@numba.njit(cache=True, nogil=True)
def _behind_now(ranges: F32, pixels: NDArray[np.int32], image: F32) -> NDArray[np.bool_]:
    """Which points (N,) are behind the nearest one in their pixel of an image (H * W,)."""
    behind = np.zeros(len(ranges), np.bool_)
    for n in range(len(ranges)):
        if pixels[n] >= 0:
            behind[n] = is_behind(ranges[n], image[np.uint32(pixels[n])])
    return behind


@numba.njit(cache=True, nogil=True)
def _moved(points: F32, velocity: F32, seconds: np.float32) -> F32:
    """Points (P, 3) where their velocity takes them."""
    moved = np.empty_like(points)
    for i in range(len(points)):
        for k in range(3):
            moved[i, k] = points[i, k] + velocity[i, k] * seconds
    return moved


@numba.njit(cache=True, nogil=True)
def _find_visible(
    image: F32,
    ranges: F32,
    pixels: NDArray[np.int32],
    behind_now: NDArray[np.bool_],
    visible: NDArray[np.bool_],
) -> None:
    """Which points (P,) are seen. What the sensor sees now, although it seems behind something,
    is no less visible then; the memory has to be uncovered by more than a gap between points."""
    columns = np.uint32(image.shape[1])
    flat = image.ravel()
    for i in range(len(ranges)):
        visible[i] = False
        if pixels[i] < 0:
            continue
        pixel = np.uint32(pixels[i])
        nearest = flat[pixel]
        if i < len(behind_now):
            if behind_now[i]:
                visible[i] = True
                continue
        else:
            row, column = pixel // columns, pixel % columns
            for offset in range(columns - COVER, columns + COVER + 1):
                beside = image[row, (column + np.uint32(offset)) % columns]
                if 0 < beside < nearest:
                    nearest = beside
        visible[i] = not is_behind(ranges[i], nearest)
