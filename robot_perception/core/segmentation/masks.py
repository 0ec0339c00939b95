"""Regions and masks as a label image with a table of segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from robot_perception.core.types import F32, I32, Segment


@dataclass(frozen=True, eq=False)
class Regions:
    """A label image (H, W) int32, 0 unlabelled, and the scores (K,) of labels 1..K."""

    labels: I32
    predicted_iou: F32
    stability: F32


def from_masks(masks: NDArray[np.bool_], predicted_iou: F32, stability: F32) -> Regions:
    """Paint masks (K, H, W), the largest first, so that small ones stay visible on top."""
    labels = np.zeros(masks.shape[1:], np.int32)
    order = np.argsort(-np.count_nonzero(masks, axis=(1, 2)), kind="stable")
    for new, old in enumerate(order, start=1):
        labels[masks[old]] = new
    return Regions(labels, predicted_iou[order], stability[order])


def largest(regions: Regions, most: int, min_area: int) -> Regions:
    """Keep the `most` largest labels of at least `min_area` pixels, renumbered by raster order."""
    area = np.bincount(regions.labels.ravel(), minlength=len(regions.predicted_iou) + 1)
    area[0] = 0
    kept = np.argsort(-area, kind="stable")[:most]
    kept = np.sort(kept[area[kept] >= max(1, min_area)])
    new = np.zeros(len(area), np.int32)
    new[kept] = np.arange(1, len(kept) + 1)
    scores = (regions.predicted_iou[kept - 1], regions.stability[kept - 1])
    return Regions(new[regions.labels], *scores)


def table(regions: Regions, ids: NDArray[np.integer]) -> tuple[Segment, ...]:
    """The segment of each label 1..K under its id (K,)."""
    count = len(regions.predicted_iou)
    labels = regions.labels
    area = np.bincount(labels.ravel(), minlength=count + 1)
    extents = find_objects(labels, count)
    return tuple(
        Segment(
            int(ids[k - 1]),
            int(area[k]),
            _box(extents[k - 1]),
            float(regions.predicted_iou[k - 1]),
            float(regions.stability[k - 1]),
        )
        for k in range(1, count + 1)
    )


def _box(extent: tuple[slice, slice]) -> tuple[int, int, int, int]:
    rows, columns = extent
    return int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)
