"""Revisit detection against ground truth: retrieval, and decisions in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import RevisitConfig
from robot_perception.core.metrics import PrecisionRecall, precision_recall, recall_at_k
from robot_perception.core.revisit.baselines import OrbWords, PatchSad
from robot_perception.core.revisit.decision import Calibration, Evidence
from robot_perception.core.revisit.features import FeatureExtractor
from robot_perception.core.revisit.fit import fit_views, load_vocabulary
from robot_perception.core.revisit.methods import (
    Detection,
    Method,
    Published,
    Retrieval,
    Simple,
)
from robot_perception.core.revisit.view import View, see
from robot_perception.core.revisit.vlad import Vocabulary
from robot_perception.core.types import F64, ImageFrame
from robot_perception.core.weights import resolve

Segment = Callable[[ImageFrame], NDArray[np.integer]]
OURS = "ours"


@dataclass(frozen=True, eq=False)
class Place:
    """An image and its true camera pose (4, 4)."""

    frame: ImageFrame
    pose: F64


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores and precision-recall curve by method, what the detector decided, the evidence that a
    decision can be calibrated on, and the vocabulary that was used."""

    methods: dict[str, dict[str, Any]]
    curves: dict[str, PrecisionRecall]
    decisions: dict[str, Any]
    evidence: Evidence
    vocabulary: Vocabulary
    backend: str


class _Comparison:
    """Runs all methods on the same views, and takes their times."""

    def __init__(
        self,
        config: RevisitConfig,
        backend: str,
        given: tuple[Vocabulary, Calibration | None] | None,
        fit_on: Sequence[View],
        published: bool,
    ) -> None:
        self.vocabulary, calibration = given or (fit_views(fit_on, config), None)
        self.calibration = calibration or Calibration()
        self.backend = backend
        self.detection = Detection(self.vocabulary, config, self.calibration)
        self.methods: dict[str, Method] = {
            OURS: self.detection,
            f"segvlad_{backend}": Retrieval(self.vocabulary, config),
            f"cells_{backend}": Retrieval(self.vocabulary, config, cells=True),
            f"global_{backend}": Retrieval(self.vocabulary, config, whole=True),
            "sad": Simple(PatchSad()),
            "bow": Simple(OrbWords([view.frame.rgb for view in fit_on])),
        }
        if published:
            self.methods[f"published_{backend}"] = Published(self.vocabulary.centres, fit_on)
        self._seconds = dict.fromkeys(self.methods, 0.0)
        self._calls = 0

    def step(self, view: View, eligible: int | None, add: bool) -> None:
        """Ask all methods about `view` (not if `eligible` is None), and `add` it."""
        self._calls += 1
        for name, method in self.methods.items():
            start = time.perf_counter()
            if eligible is not None:
                method.query(view, eligible)
            if add:
                method.add(view)
            self._seconds[name] += time.perf_counter() - start

    def result(self, positives: list[set[int]], features_ms: float) -> Evaluation:
        """Scores against `positives`, the right ids for each query."""
        has = np.array([bool(p) for p in positives])
        scores, curves = {}, {}
        for name, method in self.methods.items():
            start = time.perf_counter()
            answers = method.answers()
            self._seconds[name] += time.perf_counter() - start
            ranked = [a.ranked for a in answers]
            # Without anything in the map to compare with, there is no decision to judge.
            judged = np.array([bool(r) for r in ranked])
            right = np.array(
                [bool(r) and r[0] in p for r, p in zip(ranked, positives, strict=True)]
            )
            values = np.array([a.score for a in answers])
            curve = precision_recall(values[judged], right[judged], has[judged])
            ms = 1e3 * self._seconds[name] / max(1, self._calls)
            scores[name] = {
                "recall@1": recall_at_k(ranked, positives, 1),
                "recall@5": recall_at_k(ranked, positives, 5),
                "recall_at_100_precision": curve.recall_at_full_precision,
                "auc_pr": curve.area,
                "queries": int(judged.sum()),
                "queries_with_positive": int((has & judged).sum()),
                "bytes_per_keyframe": method.bytes_per_keyframe,
                "ms_per_keyframe": ms + features_ms * method.uses_features,
            }
            curves[name] = curve
        scores[OURS]["features_ms"] = features_ms
        found = self.detection.found
        candidates = [(i, c) for i, row in enumerate(found) for c in row]
        evidence = Evidence(
            np.array([i for i, _ in candidates], np.int64),
            np.array([c.similarity for _, c in candidates], np.float64),
            np.array([c.share for _, c in candidates], np.float64),
            np.array([c.keyframe.id in positives[i] for i, c in candidates], np.bool_),
        )
        decisions = self._decisions(positives)
        return Evaluation(scores, curves, decisions, evidence, self.vocabulary, self.backend)

    def _decisions(self, positives: list[set[int]]) -> dict[str, Any]:
        accepted = [i for i, yes in enumerate(self.detection.accepted) if yes]
        wrong = [i for i in accepted if self.detection.found[i][0].keyframe.id not in positives[i]]
        first = next((i for i, p in enumerate(positives) if p), len(positives))
        return {
            "accepted": len(accepted),
            "right": len(accepted) - len(wrong),
            "wrong": len(wrong),
            "wrong_before_the_first_revisit": sum(i < first for i in wrong),
            "queries_before_the_first_revisit": sum(bool(f) for f in self.detection.found[:first]),
            "threshold": self.calibration.threshold,
        }


def evaluate_walks(
    queries: Iterable[ImageFrame],
    references: Iterable[ImageFrame],
    positives: list[set[int]],
    config: RevisitConfig,
    *,
    backbone: Backbone | None = None,
    segment: Segment | None = None,
    published: bool = False,
) -> Evaluation:
    """One walk looked up in the map of another; `positives[i]`: right references of query i.

    Unless the config names a vocabulary, it is fitted on all references, which takes about 2 MB of
    memory each.
    """
    extract = FeatureExtractor(config, backbone)
    given = _given(config, extract)
    stored = [see(extract, f, segment(f) if segment else None) for f in references]
    comparison = _Comparison(config, extract.name, given, stored, published)
    for view in stored:
        comparison.step(view, None, add=True)
    seconds = []
    for frame in queries:
        start = time.perf_counter()
        view = see(extract, frame, segment(frame) if segment else None)
        seconds.append(time.perf_counter() - start)
        comparison.step(view, len(stored), add=False)
    if len(seconds) != len(positives):
        raise ValueError(f"{len(seconds)} queries, but the truth of {len(positives)}")
    return comparison.result(positives, 1e3 * float(np.mean(seconds)))


def evaluate_online(
    places: Iterable[Place],
    config: RevisitConfig,
    *,
    radius_m: float = 0.5,
    angle_rad: float = float(np.deg2rad(30)),
    backbone: Backbone | None = None,
    segment: Segment | None = None,
    published: bool = False,
) -> Evaluation:
    """One pass over `places`, all taken as keyframes; each is looked up in those that are at least
    `exclude_recent_s` older, and then added.

    A revisit is right within `radius_m` and `angle_rad` of the true pose. Unless the config names a
    vocabulary, it is fitted on the first `fit_keyframes`. Raises ValueError for fewer places.
    """
    extract = FeatureExtractor(config, backbone)
    given = _given(config, extract)
    comparison: _Comparison | None = None
    waiting: list[View] = []
    seconds: list[float] = []
    stamps: list[int] = []
    poses: list[F64] = []
    positives: list[set[int]] = []
    for place in places:
        start = time.perf_counter()
        view = see(extract, place.frame, segment(place.frame) if segment else None, place.pose)
        seconds.append(time.perf_counter() - start)
        age_s = (place.frame.stamp_ns - np.array(stamps, np.int64)) * 1e-9
        eligible = int((age_s >= config.exclude_recent_s).sum())
        stamps.append(place.frame.stamp_ns)
        poses.append(place.pose)
        if comparison is None:
            waiting.append(view)
            if len(waiting) == config.fit_keyframes:
                comparison = _Comparison(config, extract.name, given, waiting, published)
                for first in waiting:
                    comparison.step(first, None, add=True)
                waiting = []
            continue
        comparison.step(view, eligible, add=True)
        earlier = np.array(poses[:eligible]).reshape(-1, 4, 4)
        positives.append(_near(place.pose, earlier, radius_m, angle_rad))
    if comparison is None:
        raise ValueError(f"fewer than {config.fit_keyframes} places: too short to evaluate")
    return comparison.result(positives, 1e3 * float(np.mean(seconds)))


def _given(
    config: RevisitConfig, extract: FeatureExtractor
) -> tuple[Vocabulary, Calibration | None] | None:
    """The vocabulary that the config names, if any; raises WeightsRejected."""
    return load_vocabulary(resolve(config.vocabulary), extract) if config.vocabulary else None


def _near(pose: F64, others: F64, radius_m: float, angle_rad: float) -> set[int]:
    distance = np.linalg.norm(others[:, :3, 3] - pose[:3, 3], axis=1)
    cosine = (np.einsum("nji,ji->n", others[:, :3, :3], pose[:3, :3]) - 1) / 2
    angle = np.arccos(np.clip(cosine, -1, 1))
    return {int(i) for i in np.flatnonzero((distance < radius_m) & (angle < angle_rad))}
