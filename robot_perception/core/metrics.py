"""The measures of all three abilities, as their fields define them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from robot_perception.core.types import F32, F64


def chamfer_m2(predicted: F32, true: F32) -> float:
    """Chamfer distance in m^2 of clouds (N, 3) and (M, 3); NaN if one is empty.

    Mean squared distance to the nearest neighbour, predicted to true plus true to predicted, not
    halved: as TCNet (Mersch et al., CoRL 2021) and ATPPNet compute it.
    """
    if not len(predicted) or not len(true):
        return float("nan")
    forth, _ = cKDTree(true).query(predicted, workers=-1)
    back, _ = cKDTree(predicted).query(true, workers=-1)
    return float(np.mean(forth**2) + np.mean(back**2))


def range_l1_m(predicted: F32, true: F32) -> float:
    """Mean absolute range difference over pixels with a return in both images; NaN if none."""
    both = (predicted > 0) & (true > 0)
    return float(np.abs(predicted[both] - true[both]).mean()) if both.any() else float("nan")


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> F64:
    """IoU (K, L) of masks (K, H, W) and (L, H, W); 0 where both are empty."""
    rows, columns = a.reshape(len(a), -1), b.reshape(len(b), -1)
    overlap = rows.astype(np.float32) @ columns.T.astype(np.float32)
    union = rows.sum(axis=1)[:, None] + columns.sum(axis=1)[None] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def recall_at_k(ranked: list[list[int]], positives: list[set[int]], k: int) -> float:
    """Share of queries with a positive among their first `k`; queries without any do not count."""
    hits = [bool(set(r[:k]) & p) for r, p in zip(ranked, positives, strict=True) if p]
    return float(np.mean(hits)) if hits else float("nan")


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall (N,) as the threshold falls; the area; recall at 100 % precision."""

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
    nothing to find count as false alarms when they are accepted, and not in recall.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(correct[order])
    precision = right / np.arange(1, len(order) + 1)
    recall = right / max(1, int(has_positive.sum()))
    # Equal scores are accepted together.
    last = np.append(scores[order][1:] != scores[order][:-1], True)
    precision, recall, thresholds = precision[last], recall[last], scores[order][last]
    area = float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))
    full = recall[precision == 1.0]
    return PrecisionRecall(precision, recall, thresholds, area, float(full.max(initial=0.0)))
