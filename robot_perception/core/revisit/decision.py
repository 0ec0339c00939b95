"""From retrieved keyframes and their geometry to a probability and a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from robot_perception.core.config import RevisitConfig
from robot_perception.core.metrics import precision_recall
from robot_perception.core.revisit.geometry import match, verify
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.keyframes import Keyframe
from robot_perception.core.types import F32, F64, I32

_MIN_PAIR_INLIERS = 3
# Of fewer keypoints, a share says little.
_FEW_KEYPOINTS = 50
# Candidates of keyframes in a row agree when they are this many keyframes apart at most.
_AGREE = 5


@dataclass(frozen=True)
class Calibration:
    """Logistic in a candidate's similarity and in its share of keypoints that verify, of weights
    >= 0, and the least probability of a revisit.

    The defaults are the maximum likelihood on the shortlisted candidates of the corridor's walks
    and of a simulated street (same place: within 5 m and 30 degrees), both of equal weight.
    """

    bias: float = -3.39
    similarity: float = 3.49
    share: float = 5.76
    threshold: float = 0.9

    def numbers(self) -> F64:
        """As a map keeps them (4,)."""
        return np.array([self.bias, self.similarity, self.share, self.threshold])

    def probability(self, similarity: float, share: float) -> float:
        """That a candidate is the same place."""
        x = self.bias + self.similarity * similarity + self.share * share
        return float(1 / (1 + np.exp(-np.clip(x, -50, 50))))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A keyframe that may be the place: its retrieval score `similarity`, the inlier `pairs`
    (I, 4) of `matches` matched keypoints, their `share` of all keypoints, and its probability."""

    keyframe: Keyframe
    similarity: float
    pairs: F32
    matches: int
    share: float
    probability: float

    @property
    def inliers(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of candidates (N,) of known truth: the query each belongs to, its similarity, its share of
    verified keypoints, and whether it is the same place."""

    query: NDArray[np.int64]
    similarity: F64
    share: F64
    correct: NDArray[np.bool_]


def candidates(
    query: Keyframe,
    index: PlaceIndex,
    keyframes: Sequence[Keyframe],
    eligible: int,
    config: RevisitConfig,
    calibration: Calibration,
) -> list[Candidate]:
    """The shortlist for `query` among the first `eligible` of `keyframes`, most probable first."""
    segments = query.descriptors.astype(np.float32)
    ids, scores, _ = index.rank(segments, query.image_descriptor.astype(np.float32), eligible)
    found = [
        _check(query, keyframes[int(i)], float(score), calibration)
        for i, score in zip(ids[: config.shortlist], scores, strict=False)
    ]
    return sorted(found, key=lambda c: -c.probability)


def _check(
    query: Keyframe, keyframe: Keyframe, similarity: float, calibration: Calibration
) -> Candidate:
    pairs = match(query.keypoint_descriptors, keyframe.keypoint_descriptors)
    here, there = query.keypoints[pairs[:, 0]], keyframe.keypoints[pairs[:, 1]]
    verified = verify(here, there, query.size)
    possible = min(len(query.keypoints), len(keyframe.keypoints))
    share = len(verified) / max(_FEW_KEYPOINTS, possible)
    probability = calibration.probability(similarity, share)
    return Candidate(keyframe, similarity, verified, len(pairs), share, probability)


class Acceptance:
    """Which best candidates are revisits: those with enough evidence that name the same place as
    those of the keyframes before, `consecutive` in a row."""

    def __init__(self, config: RevisitConfig, calibration: Calibration) -> None:
        self._config = config
        self._least = config.min_probability or calibration.threshold
        self._recent: list[int] = []

    def step(self, best: Candidate | None) -> bool:
        if (
            best is None
            or best.inliers < self._config.min_inliers
            or best.probability < self._least
        ):
            self._recent = []
            return False
        needed = self._config.consecutive
        self._recent = [*self._recent, best.keyframe.id][-needed:]
        spread = max(self._recent) - min(self._recent)
        return len(self._recent) == needed and spread <= _AGREE * needed


def calibrate(evidence: Evidence, precision: float) -> Calibration:
    """Fit the logistic, and find the threshold at which decisions have the wanted `precision`.

    Maximum likelihood on all candidates with a weak ridge. More evidence never makes a place less
    probable: a feature whose weight would be negative is left out. The decision about a query is
    its most probable candidate. Raises ValueError unless there are right and wrong candidates that
    a feature tells apart, and where no threshold has the precision.
    """
    correct = evidence.correct
    if len(np.unique(correct)) < 2:
        raise ValueError("calibration needs right and wrong candidates")
    features = np.stack([evidence.similarity, evidence.share], axis=1)
    # The ridge acts on the features' own scale.
    scale = np.maximum(features.std(axis=0), 1e-6)
    fits: list[tuple[float, Calibration]] = []
    for used in ([0, 1], [0], [1]):
        model = LogisticRegression(C=10.0).fit(features[:, used] / scale[used], correct)
        weights = np.zeros(2)
        weights[used] = model.coef_[0] / scale[used]
        if (weights >= 0).all():
            bias = float(model.intercept_[0])
            logit = bias + features @ weights
            loss = float(np.logaddexp(0, np.where(correct, -logit, logit)).mean())
            fits.append((loss, Calibration(bias, float(weights[0]), float(weights[1]))))
    if not fits:
        raise ValueError("right candidates have no more evidence than wrong ones")
    _, fitted = min(fits, key=lambda f: f[0])
    probabilities, right = decisions(evidence, fitted)
    threshold = threshold_for_precision(probabilities, right, precision)
    return Calibration(fitted.bias, fitted.similarity, fitted.share, threshold)


def decisions(evidence: Evidence, calibration: Calibration) -> tuple[F64, NDArray[np.bool_]]:
    """Of each query's most probable candidate (Q,): its probability, and whether it is right."""
    p = np.array(
        [
            calibration.probability(float(a), float(b))
            for a, b in zip(evidence.similarity, evidence.share, strict=True)
        ]
    )
    order = np.lexsort((-p, evidence.query))
    first = order[np.unique(evidence.query[order], return_index=True)[1]]
    return p[first], evidence.correct[first]


def threshold_for_precision(
    probabilities: F64, correct: NDArray[np.bool_], precision: float
) -> float:
    """The least probability at which decisions (N,) still have the wanted precision.

    Raises ValueError when none has it.
    """
    curve = precision_recall(probabilities, correct, correct)
    good = np.flatnonzero(curve.precision >= precision)
    if not len(good):
        raise ValueError(f"no threshold gives a precision of {precision}")
    return float(curve.thresholds[good[-1]])


def segment_pairs(query: Keyframe, best: Candidate) -> I32:
    """Label pairs (P, 2), here and in the keyframe, that at least three inliers join; those that
    most join come first."""
    here = {tuple(p): i for i, p in enumerate(query.keypoints.tolist())}
    there = {tuple(p): i for i, p in enumerate(best.keyframe.keypoints.tolist())}
    pairs = [
        (
            query.keypoint_labels[here[float(u), float(v)]],
            best.keyframe.keypoint_labels[there[float(s), float(t)]],
        )
        for u, v, s, t in best.pairs
    ]
    names, counts = np.unique(np.array(pairs, np.int32).reshape(-1, 2), axis=0, return_counts=True)
    kept = (counts >= _MIN_PAIR_INLIERS) & (names != 0).all(axis=1)
    order = np.argsort(-counts[kept], kind="stable")
    return np.asarray(names[kept][order], np.int32)
