"""From geometric evidence to a probability, and to segments that match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from robot_perception.core.metrics import precision_recall
from robot_perception.core.revisit.geometry import match, verify
from robot_perception.core.revisit.keyframes import Keyframe
from robot_perception.core.revisit.view import View
from robot_perception.core.types import F32, F64, I32

_MIN_PAIR_INLIERS = 3


@dataclass(frozen=True)
class Calibration:
    """Logistic in the share of matches that are inliers and in ln(1 + inliers), of weights >= 0.

    The defaults hold for the share alone, which, unlike the count, does not depend on how much
    texture there is: maximum likelihood on 173 best candidates, 87 of 7-Scenes' red kitchen (same
    place: within 0.5 m and 30 degrees) and 86 of a simulated street (5 m and 30 degrees). On these
    same data a probability of 0.5, a share of 0.61, has precision 0.66 at recall 0.68 in the
    kitchen, where the wrong ones are overlapping views from a little further away, and 0.96 at 1.0
    in the street. On the corridor's images of 160 x 120 pixels right ones have shares about 0.29,
    and none is accepted: other cameras need `calibrate`.
    """

    bias: float = -11.04
    share: float = 18.09
    inliers: float = 0.0

    def probability(self, inliers: int, matches: int) -> float:
        """That a candidate with so many geometric inliers of so many matches is the same place."""
        x = (
            self.bias
            + self.share * inliers / max(1, matches)
            + self.inliers * float(np.log1p(inliers))
        )
        return float(1 / (1 + np.exp(-np.clip(x, -50, 50))))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A keyframe that may be the place: of `matches` local features, `pairs` (I, 4) verify."""

    keyframe: Keyframe
    pairs: F32
    matches: int

    @property
    def inliers(self) -> int:
        return len(self.pairs)


def calibrate(
    inliers: NDArray[np.integer], matches: NDArray[np.integer], correct: NDArray[np.bool_]
) -> Calibration:
    """Fit the logistic on candidates (N,) known to be the same place or not.

    Maximum likelihood with a weak ridge. More evidence never makes a place less probable: a feature
    whose weight would be negative is left out. Raises ValueError unless both outcomes occur and
    one of the features tells them apart.
    """
    if len(np.unique(correct)) < 2:
        raise ValueError("calibration needs right and wrong candidates")
    features = np.stack([inliers / np.maximum(1, matches), np.log1p(inliers)], axis=1)
    # The ridge acts on the features' own scale.
    scale = np.maximum(features.std(axis=0), 1e-6)
    fits = []
    for used in ([0, 1], [0], [1]):
        model = LogisticRegression(C=10.0).fit(features[:, used] / scale[used], correct)
        weights = np.zeros(2)
        weights[used] = model.coef_[0] / scale[used]
        fits.append(Calibration(float(model.intercept_[0]), *(float(w) for w in weights)))
    rising = [c for c in fits if c.share >= 0 and c.inliers >= 0]
    if not rising:
        raise ValueError("right candidates have no more inliers than wrong ones")
    return min(rising, key=lambda c: _log_loss(c, inliers, matches, correct))


def _log_loss(
    calibration: Calibration,
    inliers: NDArray[np.integer],
    matches: NDArray[np.integer],
    correct: NDArray[np.bool_],
) -> float:
    p = np.array(
        [
            calibration.probability(int(i), int(m)) if c else 1 - calibration.probability(i, m)
            for i, m, c in zip(inliers, matches, correct, strict=True)
        ]
    )
    return float(-np.log(np.maximum(p, 1e-12)).mean())


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


def check(view: View, keyframe: Keyframe) -> Candidate:
    """The geometric check of `view` against a keyframe of the map."""
    pairs = match(view.features.descriptors, keyframe.keypoint_descriptors)
    here, there = view.features.keypoints[pairs[:, 0]], keyframe.keypoints[pairs[:, 1]]
    return Candidate(keyframe, verify(here, there, view.size), len(pairs))


def best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate with most inliers; of equal ones the first."""
    return max(candidates, key=lambda c: c.inliers, default=None)


def segment_pairs(view: View, best: Candidate) -> I32:
    """Label pairs (P, 2), here and in the keyframe, that at least three inliers join."""
    here = {tuple(p): i for i, p in enumerate(view.features.keypoints.tolist())}
    there = {tuple(p): i for i, p in enumerate(best.keyframe.keypoints.tolist())}
    pairs = [
        (
            view.keypoint_labels[here[float(u), float(v)]],
            best.keyframe.keypoint_labels[there[float(s), float(t)]],
        )
        for u, v, s, t in best.pairs
    ]
    names, counts = np.unique(np.array(pairs, np.int32).reshape(-1, 2), axis=0, return_counts=True)
    kept = (counts >= _MIN_PAIR_INLIERS) & (names != 0).all(axis=1)
    return np.asarray(names[kept], np.int32)
