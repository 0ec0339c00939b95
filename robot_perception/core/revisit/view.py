"""One keyframe seen, and its descriptors by a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.revisit import vlad
from robot_perception.core.revisit.features import FeatureExtractor, Features
from robot_perception.core.revisit.keyframes import Keyframe, label_png, thumbnail
from robot_perception.core.types import F32, F64, I32, ImageFrame


@dataclass(frozen=True, eq=False)
class View:
    """A keyframe on its way into the map.

    `labels` (H, W) are its segments, `keypoint_labels` (N,) the label each keypoint lies on.
    `pose` (4, 4) in the odometry frame. `travelled_m`: NaN without odometry. `size`: width and
    height in pixels.
    """

    frame: ImageFrame
    features: Features
    masks: vlad.SegmentMasks
    labels: NDArray[np.integer]
    keypoint_labels: I32
    pose: F64 | None = None
    travelled_m: float = float("nan")
    size: tuple[int, int] = (0, 0)


def see(
    extract: FeatureExtractor,
    frame: ImageFrame,
    labels: NDArray[np.integer] | None,
    pose: F64 | None = None,
    travelled_m: float = float("nan"),
) -> View:
    """Features and segments of `frame`; a grid of cells where `labels` (H, W) has no segment.

    Raises InputRejected for a bad image and for labels of another shape.
    """
    height, width = frame.rgb.shape[:2]
    if labels is not None and labels.shape != (height, width):
        raise InputRejected("labels and image differ in size")
    features = extract(frame.rgb)
    if labels is None or not labels.any():
        labels = vlad.grid_labels(height, width)
    masks = vlad.segment_masks(labels, features.dense.shape[:2])
    pixels = np.round(features.keypoints).astype(np.int64)
    columns, rows = np.clip(pixels[:, 0], 0, width - 1), np.clip(pixels[:, 1], 0, height - 1)
    on = labels[rows, columns].astype(np.int32)
    return View(frame, features, masks, labels, on, pose, travelled_m, (width, height))


def super_segments(view: View, centres: F32, order: int) -> F32:
    """VLAD (S, K * D) of each segment with its neighbours up to `order` steps away."""
    near = vlad.adjacency(view.masks.centroids, order)
    return vlad.aggregate(view.features.dense, view.masks, near, centres)


def thinned(keyframe: Keyframe, view: View, config: RevisitConfig) -> Keyframe:
    """`keyframe` as the map keeps it: without super-segments that repeat a larger one.

    A query keeps all of its own: that costs no memory, and recognises more."""
    if config.prune_iou >= 1:
        return keyframe
    near = vlad.adjacency(view.masks.centroids, config.neighbour_order)
    kept = vlad.distinct(near, view.masks, config.prune_iou)
    return replace(keyframe, descriptors=keyframe.descriptors[kept])


def describe(
    view: View,
    vocabulary: vlad.Vocabulary,
    config: RevisitConfig,
    number: int = 0,
    session: int = 0,
) -> Keyframe:
    """The keyframe of `view`: descriptors of super-segments and image, and what else a map keeps.

    Descriptors are in half precision: a map searched now and one loaded later are the same.
    """
    vlads = super_segments(view, vocabulary.centres, config.neighbour_order)
    return Keyframe(
        number,
        view.frame.stamp_ns,
        vlad.compress(vlads, vocabulary).astype(np.float16),
        vlad.whole_image(view.features.dense, vocabulary.centres).astype(np.float16),
        view.features.keypoints,
        view.features.descriptors,
        view.keypoint_labels,
        view.pose,
        view.travelled_m,
        view.size,
        thumbnail(view.frame.rgb),
        label_png(view.labels),
        session,
    )
