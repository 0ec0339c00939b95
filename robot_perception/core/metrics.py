"""The measures of all three abilities, as their fields define them.

Where there is nothing to measure (an empty cloud, no common return, no query) the answer is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from robot_perception.core.types import F32, F64


def chamfer_m2(predicted: F32, true: F32) -> float:
    """Chamfer distance in m^2 of clouds (N, 3) and (M, 3); NaN if one is empty.

    Mean squared distance to the nearest neighbour, predicted to true plus true to predicted, not
    halved: as TCNet (Mersch et al., CoRL 2021) and ATPPNet compute it. Raises ValueError for
    coordinates that are not finite.
    """
    forth = nearest_m2(predicted, neighbours(true), workers=-1)
    return forth + nearest_m2(true, neighbours(predicted), workers=-1)


def neighbours(cloud: F32) -> cKDTree:
    """A tree of the points (N, 3); raises ValueError for coordinates that are not finite."""
    # Split at the midpoint it is built in less time, for the same neighbours.
    return cKDTree(cloud, balanced_tree=False, compact_nodes=False)


def nearest_m2(points: F32, tree: cKDTree, workers: int = 1) -> float:
    """Mean squared distance in m^2 of points (N, 3) to the nearest in `tree`; NaN if there is none
    of either."""
    if not len(points) or not tree.n:
        return float("nan")
    distance, _ = tree.query(points, workers=workers)
    return float(np.mean(distance**2))


def range_l1_m(predicted: F32, true: F32) -> float:
    """Mean absolute range difference over pixels with a return in both images; NaN if none."""
    both = (predicted > 0) & (true > 0)
    return float(np.abs(predicted[both] - true[both]).mean()) if both.any() else float("nan")


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> F64:
    """IoU (K, L) of masks (K, H, W) and (L, H, W); 0 where both are empty."""
    rows, columns = a.reshape(len(a), -1), b.reshape(len(b), -1)
    # Exact in float32: counts of up to 2^24 pixels are.
    overlap = (rows.astype(np.float32) @ columns.T.astype(np.float32)).astype(np.float64)
    return _over_union(overlap, rows.sum(axis=1), columns.sum(axis=1))


def label_iou(a: NDArray[np.integer], b: NDArray[np.integer], count_a: int, count_b: int) -> F64:
    """IoU (count_a, count_b) of the labels 1.. of two label images (H, W), 0 being no label.

    By one histogram of label pairs; 0 where both labels are absent. Raises ValueError for label
    images of different shape or labels outside 0..count.
    """
    if a.shape != b.shape:
        raise ValueError(f"label images of shape {a.shape} and {b.shape}")
    for labels, count in ((a, count_a), (b, count_b)):
        if labels.size and not 0 <= labels.min() <= labels.max() <= count:
            raise ValueError(f"a label outside 0..{count}")
    pairs = a.ravel().astype(np.int64) * (count_b + 1) + b.ravel()
    table = np.bincount(pairs, minlength=(count_a + 1) * (count_b + 1))
    table = table.reshape(count_a + 1, count_b + 1)
    overlap = table[1:, 1:].astype(np.float64)
    return _over_union(overlap, table.sum(axis=1)[1:], table.sum(axis=0)[1:])


def _over_union(overlap: F64, area_a: NDArray[np.integer], area_b: NDArray[np.integer]) -> F64:
    union = area_a[:, None] + area_b[None] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def recall_at_k(ranked: list[list[int]], positives: list[set[int]], k: int) -> float:
    """Share of queries with a positive among their first `k`.

    Queries without any positive do not count; NaN if no query has one.
    """
    hits = [bool(set(r[:k]) & p) for r, p in zip(ranked, positives, strict=True) if p]
    return float(np.mean(hits)) if hits else float("nan")


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall (N,) as the threshold falls; the area; recall at 100 % precision.

    The area is average precision: the sum of precision times the step in recall.
    """

    precision: F64
    recall: F64
    thresholds: F64
    area: float
    recall_at_full_precision: float


def precision_recall(
    scores: F64, correct: NDArray[np.bool_], has_positive: NDArray[np.bool_]
) -> PrecisionRecall:
    """The curve over queries with a score (N,) for their best candidate.

    `correct`: that candidate is right; `has_positive`: there was a right one to find. Queries with
    nothing to find count as false alarms when they are accepted, and not in recall. Recall, the
    area and recall at full precision are NaN if there is nothing to find at all. Raises ValueError
    for scores that are NaN, and for a query that is right without anything to find.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    if (correct & ~has_positive).any():
        raise ValueError("a query is correct although there was nothing to find")
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(correct[order])
    precision = right / np.arange(1, len(order) + 1)
    findable = int(has_positive.sum())
    recall = right / (findable or np.nan)
    # Equal scores are accepted together.
    last = np.append(scores[order][1:] != scores[order][:-1], True)[: len(order)]
    precision, recall, thresholds = precision[last], recall[last], scores[order][last]
    area = float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))
    full = float(recall[precision == 1.0].max(initial=0.0)) if findable else float("nan")
    return PrecisionRecall(precision, recall, thresholds, area if findable else full, full)
