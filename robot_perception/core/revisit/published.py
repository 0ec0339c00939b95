"""SegVLAD as published, step by step, to compare with: Garg et al., "Revisit Anything", ECCV 2024.

Written from the paper for clarity, in double precision and with loops over segments and clusters.
It is offline: similarities are normalised over all queries at once. Nothing but evaluation, tests
and benchmarks uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.types import F32, F64

ORDER = 3
COMPONENTS = 1024
_RETRIEVED = 200
_VOTING = 50


def super_segment_vlads(
    dense: F32, masks: NDArray[np.bool_], near: NDArray[np.bool_], centres: F32
) -> F64:
    """VLAD (S, K * D) of each super-segment: segment masks (S, h, w) on patches (h, w, D), joined
    with those they are `near` (S, S)."""
    patches = dense.reshape(-1, dense.shape[2]).astype(np.float64)
    residuals = patches[:, None] - centres[None].astype(np.float64)
    nearest = np.linalg.norm(residuals, axis=2).argmin(axis=1)
    result = []
    for i in range(len(masks)):
        inside = np.any(masks[near[i]], axis=0).ravel()
        blocks = np.zeros(centres.shape, np.float64)
        for k in range(len(centres)):
            blocks[k] = residuals[inside & (nearest == k), k].sum(axis=0)
            norm = np.linalg.norm(blocks[k])
            if norm > 1e-12:
                blocks[k] /= norm
        flat = blocks.ravel()
        result.append(flat / max(1e-12, float(np.linalg.norm(flat))))
    return np.array(result, np.float64).reshape(len(masks), centres.size)


@dataclass(frozen=True, eq=False)
class Whitening:
    """mean (G,) and components (P, G), scaled to unit variance."""

    mean: F64
    components: F64


def fit_whitening(vlads: F64, most: int = COMPONENTS) -> Whitening:
    """The whitened PCA of VLADs (N, G), of at most `most` components."""
    mean = vlads.mean(axis=0)
    _, values, directions = np.linalg.svd(vlads - mean, full_matrices=False)
    # No more than the data spans: what is left is rounding, which whitening would blow up.
    count = min(most, int((values > 1e-6 * values[0]).sum()))
    deviations = values[:count] / np.sqrt(max(1, len(vlads) - 1))
    return Whitening(mean, directions[:count] / deviations[:, None])


def image_scores(
    queries: Sequence[F64], references: Sequence[F64], eligible: Sequence[int]
) -> list[F64]:
    """Score (R,) of each query image for its first `eligible` reference images, by whitened
    descriptors (S, P) of their segments.

    Each query segment retrieves its 200 nearest by L2 and votes with the 50 first; the similarities
    of all queries' votes are min-max normalised together, and summed by image.
    """
    owner = np.repeat(np.arange(len(references)), [len(r) for r in references])
    stored = np.concatenate(list(references)) if len(owner) else np.zeros((0, 0))
    votes: list[tuple[int, int, float]] = []
    for number, (segments, count) in enumerate(zip(queries, eligible, strict=True)):
        rows = int(np.searchsorted(owner, count))
        for segment in segments if rows else []:
            distances = ((stored[:rows] - segment) ** 2).sum(axis=1)
            retrieved = np.argsort(distances, kind="stable")[:_RETRIEVED]
            for row in retrieved[:_VOTING]:
                votes.append((number, int(owner[row]), -float(distances[row])))
    scores = [np.zeros(count) for count in eligible]
    if votes:
        values = np.array([v for _, _, v in votes])
        low, high = values.min(), values.max()
        for number, image, value in votes:
            scores[number][image] += (value - low) / max(1e-12, high - low)
    return scores
