"""Class-agnostic regions without any weights: graph-based region merging.

Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation" (IJCV 2004), by
scikit-image, on a bilaterally smoothed image in the Lab colour space. That algorithm turns blurred
edges into regions of their own, a pixel or two wide, which come and go from frame to frame: each
joins the neighbour it fits best.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.segmentation import felzenszwalb

from robot_perception.core.errors import InputRejected
from robot_perception.core.segmentation.masks import Regions
from robot_perception.core.types import F32, F64, I32, U8

NAME = "embedded:felzenszwalb"
_SCALE = 200.0
_SMOOTHING = 0.6
_MIN_SIDE = 16
# Smaller regions than this share of the image come and go from frame to frame.
_LEAST_SHARE = 0.001
# Gradient of Lab (0..1) a pixel at which a border is as likely real as not.
_EDGE = 0.02
# Area by border length, in pixels, below which a region is a sliver; a long strip of width w has
# w / 2.
_SLIVER = 1.5
# Difference in mean Lab at which a neighbour's shared border counts for 1 / e.
_LIKENESS = 0.1
# Absorbing slivers can leave a region that is one itself, so it is done twice.
_ROUNDS = 2


def regions(rgb: U8, max_side: int, min_area: int) -> Regions:
    """Regions of an image (H, W, 3), worked out at a longer side of `max_side` pixels.

    Nearly every pixel belongs to one. The scores are no learnt estimates: `predicted_iou` is the
    mean strength of the edges along a region's border as g / (g + 0.02) for the Lab gradient g a
    pixel, `stability` the share of its border where that exceeds one half; both are 0 for a region
    without border. Deterministic. Raises InputRejected for an image of less than 16 pixels a side.
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
    labels = labels.astype(np.int32)
    for _ in range(_ROUNDS):
        labels = _without_slivers(labels, lab)
    iou, stability = _border_scores(labels, lab)
    return Regions(_enlarged(labels, (width, height)) + 1, iou, stability)


def _enlarged(labels: I32, size: tuple[int, int]) -> I32:
    """The label image at another size (width, height), its stairs rounded off."""
    if labels.shape == size[::-1]:
        return labels
    # The median of a 5 x 5 window is one of its labels, and on a border of two the majority's.
    # OpenCV has it for 16 bits; min_size keeps the number of labels far below that.
    full = cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.medianBlur(full, 5), np.int32)


def _without_slivers(labels: I32, lab: F32) -> I32:
    """Labels 0.. where each sliver has joined the neighbour of longest border and like colour."""
    count = int(labels.max()) + 1
    a, b, _ = _borders(labels, lab)
    one, other = np.concatenate([a, b]), np.concatenate([b, a])
    area = np.bincount(labels.ravel(), minlength=count)
    sliver = area < _SLIVER * np.bincount(one, minlength=count)
    if not sliver.any():
        return labels
    mean = _mean_colours(labels, lab, area)
    mine = sliver[one]
    shared = coo_matrix((np.ones(int(mine.sum())), (one[mine], other[mine])), (count, count))
    shared.sum_duplicates()
    row, column = shared.row, shared.col
    likeness = np.exp(-np.linalg.norm(mean[row] - mean[column], axis=1) / _LIKENESS)
    order = np.lexsort((column, -shared.data * likeness, row))
    row, column = row[order], column[order]
    first = np.append(True, row[1:] != row[:-1])
    # Only slivers point at a neighbour, and at one each: no two other regions become one.
    links = coo_matrix((np.ones(int(first.sum())), (row[first], column[first])), (count, count))
    _, merged = connected_components(links, directed=False)
    return np.asarray(merged[labels], np.int32)


def _mean_colours(labels: I32, lab: F32, area: NDArray[np.integer]) -> F64:
    """Mean colour (K, 3) of each label."""
    flat = labels.ravel()
    sums = [np.bincount(flat, lab[..., c].ravel(), len(area)) for c in range(3)]
    return np.asarray(np.stack(sums, axis=1) / np.maximum(area, 1)[:, None])


def _border_scores(labels: I32, lab: F32) -> tuple[F32, F32]:
    """Mean edge strength, and share of strong edge, along the border of each label."""
    count = int(labels.max()) + 1
    a, b, gradient = _borders(labels, lab)
    strength = gradient / (gradient + _EDGE)
    sums, strong, length = (np.zeros(count) for _ in range(3))
    for side in (a, b):
        sums += np.bincount(side, strength, count)
        strong += np.bincount(side, strength > 0.5, count)
        length += np.bincount(side, minlength=count)
    length = np.maximum(length, 1)
    return (sums / length).astype(np.float32), (strong / length).astype(np.float32)


def _borders(labels: I32, lab: F32) -> tuple[I32, I32, F32]:
    """The labels on either side of each pair of neighbours (N,) that differ, and the Lab step."""
    pairs = []
    for before, after in (
        (np.s_[:-1, :], np.s_[1:, :]),
        (np.s_[:, :-1], np.s_[:, 1:]),
    ):
        a, b = labels[before], labels[after]
        border = a != b
        step = np.linalg.norm(lab[before][border] - lab[after][border], axis=1)
        pairs.append((a[border], b[border], step))
    a, b, steps = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return a, b, steps
