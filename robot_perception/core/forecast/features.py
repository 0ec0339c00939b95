"""The network's view of a scene: an image of what geometry knows, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.candidates import Candidates
from robot_perception.core.forecast.flow import PastScan
from robot_perception.core.forecast.scene import Scene
from robot_perception.core.range_image import SensorModel, look
from robot_perception.core.types import F32

LAGS = 4
HORIZONS = 5
# Where each group of channels begins.
_PAST = 2
_MEMORY = _PAST + 2 * LAGS
_MOTION = _MEMORY + 3
_ELEVATION = _MOTION + 3
_VISIBLE = _ELEVATION + 2
CHANNELS = _VISIBLE + 2 * HORIZONS + 2
# Channels that say nothing of what is seen: elevation of the beam, speed and yaw rate.
UNSEEN = (_ELEVATION, CHANNELS - 2, CHANNELS - 1)
# A mirror image negates the tangential speed and the yaw rate.
MIRRORED = (_MOTION + 2, CHANNELS - 1)


@dataclass(frozen=True, eq=False)
class Features:
    """`image` (C, H, W) float32 and the pixel (P,) of each candidate in it, -1 outside.

    Channels: log range and mask; signed residual and mask of each of the last four scans warped to
    the present, latest first; mask, depth behind the surface and age of the memory; moving or not,
    radial and tangential speed; elevation and height; visibility of scan and of memory at each
    horizon; speed and yaw rate of the sensor.
    """

    image: F32
    pixel: NDArray[np.int32]


@lru_cache(maxsize=8)
def network_model(model: SensorModel) -> SensorModel:
    """The range image that the network works on: half of the columns."""
    return replace(model, columns=model.columns // 2)


def sequence(image: F32, past: Sequence[PastScan], model: SensorModel) -> F32:
    """What the network's recurrence sees: (P, H, W, 3) of the last scans, oldest first, as seen in
    `model` from the present, and of the present, whose range image (H, 2 * W) this is: log range of
    the present, residual, mask."""
    steps = np.zeros((LAGS + 1, model.rows, model.columns, 3), np.float32)
    half = _half(image)
    _present(half, steps)
    for lag, scan in enumerate(past[: -LAGS - 1 : -1]):
        _residual(half, look(scan.xyz, scan.pose, model)[0], steps[LAGS - 1 - lag])
    return steps


def features(
    scene: Scene, found: Candidates, model: SensorModel, steps: F32 | None = None
) -> Features:
    """Features of `scene` in the range image of `model`; `steps`: the `sequence` if it is known."""
    if steps is None:
        steps = sequence(scene.image, scene.past, model)
    behind, hidden_ranges, theirs = look(scene.memory, np.eye(4), model)
    image = _half(scene.image)
    # A row has twice as many columns: the row of the whole image is that of the half. -1 stays.
    own = scene.pixels >> 1
    # Channels last: all that is known of a pixel stands together.
    out = np.empty((model.rows, model.columns, CHANNELS), np.float32)
    elevations = (model.elevations_rad / 0.3).astype(np.float32)
    speed, turn = np.linalg.norm(scene.twist[3:]) / 10, scene.twist[2] / 0.5
    _surface(image, behind, elevations, np.float32(speed), np.float32(turn), steps, out)
    flat = out.reshape(-1, CHANNELS)
    shown = found.visible[:HORIZONS]
    observed = found.observed
    _points(
        *(own, scene.ranges, image.reshape(-1), scene.xyz, scene.velocity, scene.moves),
        *(shown[:, :observed], flat),
    )
    _remembered(
        *(theirs, hidden_ranges, behind.reshape(-1), scene.memory_age_s),
        *(shown[:, observed:], flat),
    )
    return Features(out.transpose(2, 0, 1), np.concatenate([own, theirs]))


@numba.njit(cache=True, nogil=True)
def _half(image: F32) -> F32:
    """The nearer of each two columns of a range image, (H, 2 * W) to (H, W)."""
    rows, columns = image.shape[0], image.shape[1] // 2
    half = np.empty((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            a, b = image[i, 2 * j], image[i, 2 * j + 1]
            half[i, j] = min(a, b) if a > 0 and b > 0 else max(a, b)
    return half


@numba.njit(cache=True, nogil=True)
def _present(image: F32, steps: F32) -> None:
    """The log range of the present in all steps, and its mask."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if image[i, j] > 0:
                steps[:, i, j, 0] = np.float32(np.log1p(image[i, j]) / np.float32(4.5))
                steps[LAGS, i, j, 2] = 1


@numba.njit(cache=True, nogil=True)
def _residual(image: F32, seen: F32, step: F32) -> None:
    """The signed residual and the mask of a past scan warped to the present."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if seen[i, j] <= 0:
                continue
            step[i, j, 2] = 1
            if image[i, j] > 0:
                scale = np.float32(0.05) * image[i, j] + np.float32(0.5)
                change = (seen[i, j] - image[i, j]) / scale
                step[i, j, 1] = min(max(change, np.float32(-2)), np.float32(2))


@numba.njit(cache=True, nogil=True)
def _surface(
    image: F32,
    behind: F32,
    elevations: F32,
    speed: np.float32,
    turn: np.float32,
    steps: F32,
    out: F32,
) -> None:
    """What the scans and the memory show in each pixel, and what is the same for many; else
    zero."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            out[i, j] = np.float32(0)
            out[i, j, _ELEVATION] = elevations[i]
            out[i, j, CHANNELS - 2] = speed
            out[i, j, CHANNELS - 1] = turn
            out[i, j, 0] = steps[LAGS, i, j, 0]
            out[i, j, 1] = steps[LAGS, i, j, 2]
            for lag in range(LAGS):
                out[i, j, _PAST + 2 * lag] = steps[LAGS - 1 - lag, i, j, 1]
                out[i, j, _PAST + 2 * lag + 1] = steps[LAGS - 1 - lag, i, j, 2]
            if behind[i, j] > 0:
                out[i, j, _MEMORY] = 1
                depth = (behind[i, j] - image[i, j]) / np.float32(20)
                out[i, j, _MEMORY + 1] = min(max(depth, np.float32(0)), np.float32(2))


@numba.njit(cache=True, nogil=True)
def _points(
    pixels: NDArray[np.int32],
    ranges: F32,
    image: F32,
    xyz: F32,
    velocity: F32,
    moves: NDArray[np.bool_],
    visible: NDArray[np.bool_],
    out: F32,
) -> None:
    """What is known of the point that is seen in each pixel."""
    ten = np.float32(10)
    for n in range(len(pixels)):
        if pixels[n] < 0:
            continue
        at = np.uint32(pixels[n])
        if ranges[n] != image[at]:
            continue
        height = xyz[n, 2] / np.float32(3)
        out[at, _ELEVATION + 1] = min(max(height, np.float32(-2)), np.float32(2))
        if moves[n]:
            x, y, vx, vy = xyz[n, 0], xyz[n, 1], velocity[n, 0], velocity[n, 1]
            flat = max(np.sqrt(x * x + y * y), np.float32(1e-3))
            out[at, _MOTION] = 1
            out[at, _MOTION + 1] = (vx * x + vy * y) / flat / ten
            out[at, _MOTION + 2] = (x * vy - y * vx) / flat / ten
        else:
            out[at, _MOTION : _MOTION + 3] = 0
        for h in range(len(visible)):
            out[at, _VISIBLE + 2 * h] = visible[h, n]


@numba.njit(cache=True, nogil=True)
def _remembered(
    pixels: NDArray[np.int32],
    ranges: F32,
    behind: F32,
    age_s: F32,
    visible: NDArray[np.bool_],
    out: F32,
) -> None:
    """What is known of the remembered point that is nearest in each pixel."""
    for n in range(len(pixels)):
        if pixels[n] < 0:
            continue
        at = np.uint32(pixels[n])
        if ranges[n] != behind[at]:
            continue
        out[at, _MEMORY + 2] = age_s[n]
        for h in range(len(visible)):
            out[at, _VISIBLE + 2 * h + 1] = visible[h, n]
