"""The network's view of a scene: an image of what geometry knows, pixel by pixel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.candidates import Candidates
from robot_perception.core.forecast.scene import Scene
from robot_perception.core.range_image import SensorModel, look
from robot_perception.core.types import F32

LAGS = 4
HORIZONS = 5
CHANNELS = 2 + 2 * LAGS + 3 + 3 + 2 + 2 * HORIZONS + 2
# A mirror image negates these.
_TANGENTIAL, _YAW_RATE = 2 + 2 * LAGS + 3 + 2, CHANNELS - 1
MIRRORED = (_TANGENTIAL, _YAW_RATE)


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


def network_model(model: SensorModel) -> SensorModel:
    """The range image that the network works on: half of the columns."""
    return replace(model, columns=max(64, model.columns // 2))


def features(scene: Scene, found: Candidates, model: SensorModel) -> Features:
    """Features of `scene` in the range image of `model`."""
    shape = (model.rows, model.columns)
    size = model.rows * model.columns
    here = np.eye(4)
    image, ranges = _halved(scene.image), scene.ranges
    own = _halved_pixels(scene.pixels, scene.image.shape[1])
    behind, hidden_ranges, theirs = look(scene.memory, here, model)
    first = _nearest(own, ranges, image)
    second = _nearest(theirs, hidden_ranges, behind)
    mask = image > 0
    out = np.zeros((CHANNELS, *shape), np.float32)
    out[0] = np.log1p(image) / 4.5
    out[1] = mask
    scale = 0.05 * image + 0.5
    lags = scene.past[: -LAGS - 1 : -1]
    with ThreadPoolExecutor() as pool:
        views = list(pool.map(lambda past: look(past.xyz, past.pose, model)[0], lags))
    for lag, seen in enumerate(views):
        both = mask & (seen > 0)
        out[2 + 2 * lag] = np.where(both, np.clip((seen - image) / scale, -2, 2), 0)
        out[3 + 2 * lag] = seen > 0
    at = 2 + 2 * LAGS
    out[at] = behind > 0
    out[at + 1] = np.where(behind > 0, np.clip((behind - image) / 20, 0, 2), 0)
    out[at + 2] = _spread(second, scene.memory_age_s, size).reshape(shape)
    at += 3
    speed = np.hypot(scene.velocity[:, 0], scene.velocity[:, 1])
    flat = np.maximum(np.hypot(scene.xyz[:, 0], scene.xyz[:, 1]), 1e-3)
    radial = (scene.velocity[:, :2] * scene.xyz[:, :2]).sum(axis=1) / flat
    cross = scene.xyz[:, 0] * scene.velocity[:, 1] - scene.xyz[:, 1] * scene.velocity[:, 0]
    for i, value in enumerate(((speed > 0).astype(np.float32), radial / 10, cross / flat / 10)):
        out[at + i] = _spread(first, value, size).reshape(shape)
    at += 3
    out[at] = model.elevations_rad[:, None] / 0.3
    out[at + 1] = _spread(first, np.clip(scene.xyz[:, 2] / 3, -2, 2), size).reshape(shape)
    at += 2
    for h in range(min(HORIZONS, len(found.visible))):
        seen_then = found.visible[h].astype(np.float32)
        out[at + 2 * h] = _spread(first, seen_then[: found.observed], size).reshape(shape)
        out[at + 2 * h + 1] = _spread(second, seen_then[found.observed :], size).reshape(shape)
    out[-2] = np.linalg.norm(scene.twist[3:]) / 10
    out[-1] = scene.twist[2] / 0.5
    return Features(out, np.concatenate([own, theirs]))


def _halved(image: F32) -> F32:
    """The nearer of each two columns of a range image: (H, W) to (H, W / 2)."""
    pairs = np.where(image > 0, image, np.float32(np.inf)).reshape(len(image), -1, 2).min(axis=2)
    return np.where(np.isfinite(pairs), pairs, np.float32(0))


def _halved_pixels(pixels: NDArray[np.int32], columns: int) -> NDArray[np.int32]:
    row, column = np.divmod(pixels, columns)
    return np.where(pixels >= 0, row * (columns // 2) + column // 2, -1).astype(np.int32)


def _nearest(pixels: NDArray[np.int32], ranges: F32, image: F32) -> NDArray[np.intp]:
    """The point (H * W,) that is seen in each pixel, or -1."""
    index = np.full(image.size, -1, np.intp)
    nearest = np.flatnonzero((pixels >= 0) & (ranges == image.ravel()[pixels]))
    index[pixels[nearest]] = nearest
    return index


def _spread(index: NDArray[np.intp], values: F32, size: int) -> F32:
    """The value of the point of each pixel (H * W,); 0 where there is none."""
    out = np.zeros(size, np.float32)
    known = index >= 0
    out[known] = values[index[known]]
    return out
