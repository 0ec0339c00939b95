"""Class-agnostic regions without any weights: graph-based region merging.

Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation" (IJCV 2004), by
scikit-image, on a bilaterally smoothed image in the Lab colour space.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb

from robot_perception.core.errors import InputRejected
from robot_perception.core.segmentation.masks import Regions
from robot_perception.core.types import F32, U8

NAME = "embedded:felzenszwalb"
_SCALE = 200.0
_SMOOTHING = 0.6
_MIN_SIDE = 16
# Smaller regions than this share of the image come and go from frame to frame.
_LEAST_SHARE = 0.001
# Gradient of Lab (0..1) a pixel at which a border is as likely real as not.
_EDGE = 0.02


def regions(rgb: U8, max_side: int, min_area: int) -> Regions:
    """Regions of an image (H, W, 3), worked out at a longer side of `max_side` pixels.

    Every pixel belongs to one. The scores are no learnt estimates: `predicted_iou` is the mean
    strength of the edges along a region's border as g / (g + 0.02) for the Lab gradient g a pixel,
    `stability` the share of its border where that exceeds one half. Raises InputRejected for an
    image of less than 16 pixels a side.
    """
    height, width = rgb.shape[:2]
    if min(height, width) < _MIN_SIDE:
        raise InputRejected(f"an image of {width} x {height} pixels is too small to segment")
    factor = min(1.0, max_side / max(height, width))
    size = (max(_MIN_SIDE, round(width * factor)), max(_MIN_SIDE, round(height * factor)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if factor < 1 else rgb
    smooth = cv2.bilateralFilter(small, 7, 40, 5)
    lab = np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB), np.float32) / np.float32(255)
    least = max(round(min_area * factor**2), round(_LEAST_SHARE * size[0] * size[1]))
    labels = felzenszwalb(lab, scale=_SCALE, sigma=_SMOOTHING, min_size=least, channel_axis=2)
    iou, stability = _border_scores(labels, lab)
    full = cv2.resize(labels.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST)
    return Regions(full.astype(np.int32) + 1, iou, stability)


def _border_scores(labels: NDArray[np.integer], lab: F32) -> tuple[F32, F32]:
    """Mean edge strength, and share of strong edge, along the border of each label."""
    count = int(labels.max()) + 1
    sums, strong, length = (np.zeros(count) for _ in range(3))
    for axis in (0, 1):
        a, b = _neighbours(labels, axis)
        before, after = _neighbours(lab, axis)
        border = a != b
        gradient = np.linalg.norm((before - after)[border], axis=1)
        strength = gradient / (gradient + _EDGE)
        for side in (a[border], b[border]):
            sums += np.bincount(side, strength, count)
            strong += np.bincount(side, strength > 0.5, count)
            length += np.bincount(side, minlength=count)
    length = np.maximum(length, 1)
    return (sums / length).astype(np.float32), (strong / length).astype(np.float32)


def _neighbours(array: NDArray[np.generic], axis: int) -> tuple[NDArray, NDArray]:  # type: ignore[type-arg]
    ahead = np.take(array, range(1, array.shape[axis]), axis)
    return np.take(array, range(array.shape[axis] - 1), axis), ahead
