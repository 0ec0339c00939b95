"""The network's view of a scene: an image of what geometry knows, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.candidates import Candidates
from robot_perception.core.forecast.scene import Scene
from robot_perception.core.range_image import SensorModel, look
from robot_perception.core.threads import threads
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


def features(scene: Scene, found: Candidates, model: SensorModel) -> Features:
    """Features of `scene` in the range image of `model`."""
    lags = scene.past[: -LAGS - 1 : -1]
    views = [threads().submit(look, past.xyz, past.pose, model) for past in lags]
    behind, hidden_ranges, theirs = look(scene.memory, np.eye(4), model)
    image = np.empty((model.rows, model.columns), np.float32)
    own = np.empty(len(scene.pixels), np.int32)
    _halve(scene.image, scene.pixels, image, own)
    # Channels last: all that is known of a pixel stands together.
    out = np.empty((model.rows, model.columns, CHANNELS), np.float32)
    elevations = (model.elevations_rad / 0.3).astype(np.float32)
    speed, turn = np.linalg.norm(scene.twist[3:]) / 10, scene.twist[2] / 0.5
    _surface(image, behind, elevations, np.float32(speed), np.float32(turn), out)
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
    for lag, view in enumerate(views):
        _past(image, view.result()[0], _PAST + 2 * lag, out)
    return Features(out.transpose(2, 0, 1), np.concatenate([own, theirs]))


@numba.njit(cache=True, nogil=True)
def sequence(image: F32) -> F32:
    """What the network's recurrence sees of features (C, H, W): (P, H, W, 3) of the past, oldest
    first, and the present: log range of the present, residual, mask."""
    _, rows, columns = image.shape
    steps = np.empty((LAGS + 1, rows, columns, 3), np.float32)
    for i in range(rows):
        for j in range(columns):
            for step in range(LAGS):
                channel = _PAST + 2 * (LAGS - 1 - step)
                steps[step, i, j, 0] = image[0, i, j]
                steps[step, i, j, 1] = image[channel, i, j]
                steps[step, i, j, 2] = image[channel + 1, i, j]
            steps[LAGS, i, j, 0] = image[0, i, j]
            steps[LAGS, i, j, 1] = 0
            steps[LAGS, i, j, 2] = image[1, i, j]
    return steps


@numba.njit(cache=True, nogil=True)
def _halve(
    image: F32, pixels: NDArray[np.int32], half: F32, half_pixels: NDArray[np.int32]
) -> None:
    """The nearer of each two columns of a range image, (H, W) to (H, W / 2), and `pixels` in it."""
    rows, columns = half.shape
    for i in range(rows):
        for j in range(columns):
            a, b = image[i, 2 * j], image[i, 2 * j + 1]
            half[i, j] = min(a, b) if a > 0 and b > 0 else max(a, b)
    for n in range(len(pixels)):
        # A row has twice as many columns: the row of the whole image is that of the half.
        half_pixels[n] = pixels[n] // 2 if pixels[n] >= 0 else -1


@numba.njit(cache=True, nogil=True)
def _surface(
    image: F32, behind: F32, elevations: F32, speed: np.float32, turn: np.float32, out: F32
) -> None:
    """What the scan and the memory show in each pixel, and what is the same for many; else zero."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            out[i, j] = np.float32(0)
            out[i, j, _ELEVATION] = elevations[i]
            out[i, j, CHANNELS - 2] = speed
            out[i, j, CHANNELS - 1] = turn
            if image[i, j] > 0:
                out[i, j, 0] = np.float32(np.log1p(image[i, j]) / np.float32(4.5))
                out[i, j, 1] = 1
            if behind[i, j] > 0:
                out[i, j, _MEMORY] = 1
                depth = (behind[i, j] - image[i, j]) / np.float32(20)
                out[i, j, _MEMORY + 1] = min(max(depth, np.float32(0)), np.float32(2))


@numba.njit(cache=True, nogil=True)
def _past(image: F32, seen: F32, channel: int, out: F32) -> None:
    """The signed residual and the mask of a past scan warped to the present."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if seen[i, j] <= 0:
                continue
            out[i, j, channel + 1] = 1
            if image[i, j] > 0:
                scale = np.float32(0.05) * image[i, j] + np.float32(0.5)
                change = (seen[i, j] - image[i, j]) / scale
                out[i, j, channel] = min(max(change, np.float32(-2)), np.float32(2))


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
        at = pixels[n]
        if at < 0 or ranges[n] != image[at]:
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
        at = pixels[n]
        if at < 0 or ranges[n] != behind[at]:
            continue
        out[at, _MEMORY + 2] = age_s[n]
        for h in range(len(visible)):
            out[at, _VISIBLE + 2 * h + 1] = visible[h, n]
